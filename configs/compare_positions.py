"""Positions of attention in `tiny_lm`: rotary against none, learned ones, and biases of the scores.

morphax compare compare_positions
morphax compare compare_positions --scale colab
"""

from configs.tiny_lm import SCALES
from train.variants import Study

MIXER = "model.stack.block.mixer"


def study() -> Study:
    """200 steps of 16 windows of 64 bytes, at most 6 seeds."""
    return Study(
        "tiny_lm",
        overrides=("steps=200",),
        variants={
            "none": (f"{MIXER}.position=none",),
            "learned": (f"{MIXER}.position=none", "model.embed.position=LearnedPosition(length=64)"),
            "alibi": (f"{MIXER}.position=none", f"{MIXER}.relative=ALiBi()"),
            "t5": (f"{MIXER}.position=none", f"{MIXER}.relative=T5Bias()"),
        },
        most=6,
        smallest=0.01,
        scales=SCALES,
    )
