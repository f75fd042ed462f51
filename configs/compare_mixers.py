"""Mixers of tokens in `tiny_lm`: attention against recurrences and a window, at equal parameters.

morphax compare compare_mixers
morphax compare compare_mixers --scale colab
"""

from configs.tiny_lm import SCALES
from train.variants import Study

MIXER = "model.stack.block.mixer"


def study() -> Study:
    """200 steps of 16 windows of 64 bytes, at most 6 seeds; rows this short cost recurrences in chunks more FLOPs."""
    return Study(
        "tiny_lm",
        overrides=("steps=200",),
        variants={
            "window": (f"{MIXER}.window=16",),
            "gla": (f"{MIXER}=GatedLinearAttention(heads=4)",),
            "delta": (f"{MIXER}=GatedDeltaNet(heads=4)",),
            "mamba2": (f"{MIXER}=Mamba2()",),
        },
        budget="parameters",
        most=6,
        smallest=0.01,
        scales=SCALES,
    )
