"""Norms of `tiny_lm`: RMSNorm against LayerNorm, ScaleNorm, and element-wise functions in their place.

morphax compare compare_norms
morphax compare compare_norms --scale colab

| variant  | FLOPs | loss   | difference of the loss      | seeds | verdict             |
|----------|-------|--------|-----------------------------|-------|---------------------|
| baseline | 1.000 | 2.2656 |                             | 6     |                     |
| layer    | 1.000 | 2.2672 | +0.07% (-2.53% to +2.67%)   | 6     | no difference shown |
| scale    | 1.000 | 2.2674 | -0.05% (-0.62% to +0.52%)   | 4     | as good             |
| tanh     | 1.000 | 2.5868 | +14.05% (+3.66% to +24.44%) | 4     | worse               |
| erf      | 1.000 | 2.5531 | +12.56% (+4.38% to +20.75%) | 4     | worse               |

After 200 steps LayerNorm and ScaleNorm do as well as RMSNorm, and element-wise functions in place of norms are far
behind.
"""

from configs.tiny_lm import SCALES
from train.variants import Study

NORM = "model.stack.block.residual.norm"


def study() -> Study:
    """200 steps of 16 windows of 64 bytes, at most 6 seeds."""
    return Study(
        "tiny_lm",
        overrides=("steps=200",),
        variants={
            "layer": (f"{NORM}=LayerNorm()",),
            "scale": (f"{NORM}=ScaleNorm()",),
            "tanh": (f"{NORM}=DynamicTanh()",),
            "erf": (f"{NORM}=DynamicErf()",),
        },
        most=6,
        smallest=0.01,
        scales=SCALES,
    )
