"""The granularity of experts in `tiny_lm`: 8 to 32 experts, finer ones as there are more, at equal FLOPs.

morphax compare experts_granularity
morphax compare experts_granularity --scale colab
"""

from configs.tiny_lm import SCALES
from train.variants import Study

FEEDFORWARD = "model.stack.block.feedforward"


def study() -> Study:
    """200 steps of 16 windows of 64 bytes, at most 6 seeds.  A quarter of the experts is active everywhere."""
    return Study(
        "tiny_lm",
        overrides=("steps=200", f"{FEEDFORWARD}=Experts(experts=8, active=2, expand=4/3)"),
        variants={
            "dense": (f"{FEEDFORWARD}=GLU(8/3)",),
            "experts16": (f"{FEEDFORWARD}=Experts(experts=16, active=4, expand=2/3)",),
            "experts32": (f"{FEEDFORWARD}=Experts(experts=32, active=8, expand=1/3)",),
            "shared": (f"{FEEDFORWARD}=Experts(experts=14, active=3, expand=2/3, shared=1)",),
        },
        most=6,
        smallest=0.01,
        scales=SCALES,
    )
