"""Residual paths of `tiny_lm`: pre-norm against post-norm, sandwich, ReZero, LayerScale and hyper-connections.

morphax compare compare_residuals
"""

from train.variants import Study

RESIDUAL = "model.stack.block.residual"


def study() -> Study:
    """200 steps of 16 windows of 64 bytes, at most 6 seeds."""
    return Study(
        "tiny_lm",
        overrides=("steps=200",),
        variants={
            "post": (f"{RESIDUAL}=PostNorm(RMSNorm())",),
            "sandwich": (f"{RESIDUAL}=Sandwich(RMSNorm())",),
            "rezero": (f"{RESIDUAL}=ReZero()",),
            "streams": (f"{RESIDUAL}=HyperConnections(norm=RMSNorm())",),
        },
        most=6,
        smallest=0.01,
    )
