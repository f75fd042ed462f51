"""Feedforwards of `tiny_lm`: a gated one against plain ones, another gate, and experts, at equal FLOPs.

morphax compare compare_feedforward
morphax compare compare_feedforward --scale colab
"""

from configs.tiny_lm import SCALES
from train.variants import Study

FEEDFORWARD = "model.stack.block.feedforward"


def study() -> Study:
    """200 steps of 16 windows of 64 bytes, at most 6 seeds; equal FLOPs, so that experts have more parameters."""
    return Study(
        "tiny_lm",
        overrides=("steps=200",),
        variants={
            "gelu": (f"{FEEDFORWARD}=MLP(expand=4)",),
            "squared": (f"{FEEDFORWARD}=MLP(expand=4, activation=squared_relu)",),
            "geglu": (f"{FEEDFORWARD}.activation=gelu",),
            "experts": (f"{FEEDFORWARD}=Experts(experts=8, active=2)",),
        },
        most=6,
        smallest=0.01,
        scales=SCALES,
    )
