"""Norms of `tiny_lm`: RMSNorm against LayerNorm, ScaleNorm, and element-wise functions in their place.

morphax compare compare_norms
morphax compare compare_norms --scale colab
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
