"""The granularity of experts in `tiny_lm`: 8 to 32 experts, finer ones as there are more, at equal FLOPs.

morphax compare experts_granularity
morphax compare experts_granularity --scale colab

| variant   | FLOPs | loss   | difference of the loss    | seeds | verdict             |
|-----------|-------|--------|---------------------------|-------|---------------------|
| baseline  | 1.000 | 2.2374 |                           | 6     |                     |
| dense     | 0.994 | 2.2656 | +1.26% (-4.48% to +7.00%) | 6     | no difference shown |
| experts16 | 1.001 | 2.2080 | -1.31% (-5.97% to +3.34%) | 6     | no difference shown |
| experts32 | 1.003 | 2.2078 | -1.32% (-6.81% to +4.16%) | 6     | no difference shown |
| shared    | 1.000 | 2.2161 | -0.96% (-7.20% to +5.29%) | 6     | no difference shown |

After 200 steps no granularity differs from eight experts, nor does a dense feedforward, by more than six seeds show:
one of 5 to 6 % would have been seen.
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
