"""Attention and a gated delta rule at four sizes of `tiny_lm`, and how their losses go on with compute.

morphax scale scaling_mixers
morphax scale scaling_mixers --scale colab
"""

from configs.tiny_lm import SCALES
from train.variants import Study


def study() -> Study:
    """Sizes of 1/2, 3/4, 1 and 3/2 around 200 steps of 16 windows of 64 bytes, 3 seeds."""
    return Study(
        "tiny_lm",
        overrides=("steps=200",),
        variants={"delta": ("model.stack.block.mixer=GatedDeltaNet(heads=4)",)},
        budget="parameters",
        seeds=3,
        sizes=(0.5, 0.75, 1.0, 1.5),
        scales=SCALES,
    )
