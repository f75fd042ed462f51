"""Feedforwards of `tiny_lm`: a gated one against plain ones, another gate, and experts, at equal FLOPs.

morphax compare compare_feedforward
morphax compare compare_feedforward --scale colab

| variant  | FLOPs | loss   | difference of the loss    | seeds | verdict             |
|----------|-------|--------|---------------------------|-------|---------------------|
| baseline | 1.000 | 2.2656 |                           | 6     |                     |
| gelu     | 1.001 | 2.3016 | +1.59% (-1.12% to +4.30%) | 6     | no difference shown |
| squared  | 1.001 | 2.2591 | -0.29% (-3.36% to +2.78%) | 6     | no difference shown |
| geglu    | 1.000 | 2.2570 | -0.38% (-1.64% to +0.47%) | 6     | no difference shown |
| experts  | 1.006 | 2.2374 | -1.24% (-6.91% to +4.43%) | 6     | no difference shown |

After 200 steps no feedforward differs from the gated one by more than six seeds show: one of 1 to 6 % would have been
seen.
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
