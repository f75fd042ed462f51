"""Positions of attention in `tiny_lm`: rotary against none, learned ones, and biases of the scores.

morphax compare compare_positions
morphax compare compare_positions --scale colab

| variant  | FLOPs | loss   | difference of the loss      | seeds | verdict |
|----------|-------|--------|-----------------------------|-------|---------|
| baseline | 1.000 | 2.2684 |                             | 4     |         |
| none     | 1.000 | 2.5641 | +13.03% (+8.15% to +17.91%) | 4     | worse   |
| learned  | 1.000 | 2.6250 | +15.72% (+8.25% to +23.19%) | 4     | worse   |
| alibi    | 1.000 | 2.3806 | +4.94% (+0.03% to +9.86%)   | 4     | worse   |
| t5       | 1.000 | 2.5531 | +12.55% (+7.84% to +17.26%) | 4     | worse   |

Rotary positions are better than all others after 200 steps, a short training in which learned ones are as bad as none.
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
