"""Residual paths of `tiny_lm`: pre-norm against post-norm, sandwich, ReZero and hyper-connections.

morphax compare compare_residuals
morphax compare compare_residuals --scale colab

| variant  | FLOPs | loss   | difference of the loss       | seeds | verdict             |
|----------|-------|--------|------------------------------|-------|---------------------|
| baseline | 1.000 | 2.2656 |                              | 6     |                     |
| post     | 1.000 | 2.3992 | +5.90% (-57.95% to +69.75%)  | 6     | no difference shown |
| sandwich | 1.000 | 2.2351 | -1.34% (-3.95% to +1.26%)    | 6     | no difference shown |
| rezero   | 1.000 | 2.6395 | +16.38% (+7.63% to +25.13%)  | 4     | worse               |
| streams  | 1.010 | 2.2540 | -0.51% (-2.64% to +1.61%)    | 6     | no difference shown |

After 200 steps at the rate of `tiny_lm`, whose residual is pre-norm; no variant was tuned.  Post-norm varies: its loss
is 3.35 on one seed and 2.16 on another, so that its interval says little.
"""

from configs.tiny_lm import SCALES
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
        scales=SCALES,
    )
