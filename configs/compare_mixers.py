"""Mixers of tokens in `tiny_lm`: attention against recurrences and a window, at equal parameters.

morphax compare compare_mixers
morphax compare compare_mixers --scale colab

| variant  | FLOPs | loss   | difference of the loss      | seeds | verdict             |
|----------|-------|--------|-----------------------------|-------|---------------------|
| baseline | 1.000 | 2.2656 |                             | 6     |                     |
| window   | 0.963 | 2.2210 | -1.97% (-3.91% to -0.02%)   | 6     | better              |
| gla      | 0.967 | 2.2786 | +0.57% (-2.58% to +3.73%)   | 6     | no difference shown |
| delta    | 1.700 | 2.1069 | -7.13% (-13.25% to -1.01%)  | 4     | better              |
| mamba2   | 1.429 | 1.9948 | -12.55% (-19.66% to -5.45%) | 3     | better              |

At equal parameters Mamba-2 and the gated delta rule have a lower loss than attention after 200 steps, for 1.4 and 1.7
times its FLOPs; so has attention within a window of 16 bytes.
"""

from configs.tiny_lm import SCALES
from train.variants import Study

MIXER = "model.stack.block.mixer"


def study() -> Study:
    """200 steps of 16 windows of 64 bytes, at most 6 seeds; rows this short cost recurrences in chunks more FLOPs."""
    return Study(
        "tiny_lm",
        overrides=("steps=200",),
        variants={
            "window": (f"{MIXER}.window=16",),
            "gla": (f"{MIXER}=GatedLinearAttention(heads=4)",),
            "delta": (f"{MIXER}=GatedDeltaNet(heads=4)",),
            "mamba2": (f"{MIXER}=Mamba2()",),
        },
        budget="parameters",
        most=6,
        smallest=0.01,
        scales=SCALES,
    )
