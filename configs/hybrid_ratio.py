"""The share of attention in a stack of recurrences: `tiny_lm` with none, one, two, three or all of four layers.

morphax compare hybrid_ratio
morphax compare hybrid_ratio --scale colab
"""

from configs.tiny_lm import SCALES
from train.variants import Study

DELTA = "Block(GatedDeltaNet(heads=4), GLU(), residual=PreNorm(RMSNorm()))"
ATTENTION = "Block(Attention(4, causal=True, position=RoPE()), GLU(), residual=PreNorm(RMSNorm()))"


def mix(*blocks: str) -> tuple[str, ...]:
    """The override that gives the stack blocks in turn."""
    return (f"model.stack.block=({', '.join(blocks)})",)


def study() -> Study:
    """200 steps of 16 windows of 64 bytes, at most 6 seeds, equal parameters.  The baseline has attention alone."""
    return Study(
        "tiny_lm",
        overrides=("steps=200", "model.stack.repeats=1", *mix(*4 * [ATTENTION])),
        variants={
            "three": mix(DELTA, *3 * [ATTENTION]),
            "two": mix(DELTA, ATTENTION, DELTA, ATTENTION),
            "one": mix(*3 * [DELTA], ATTENTION),
            "none": mix(*4 * [DELTA]),
        },
        budget="parameters",
        most=6,
        smallest=0.01,
        scales=SCALES,
    )
