"""The share of attention in a stack of recurrences: `tiny_lm` with none, one, two, three or all of four layers.

morphax compare hybrid_ratio
morphax compare hybrid_ratio --scale colab

| variant  | FLOPs | loss   | difference of the loss     | seeds | verdict |
|----------|-------|--------|----------------------------|-------|---------|
| baseline | 1.000 | 2.2684 |                            | 4     |         |
| three    | 1.179 | 2.1330 | -5.97% (-12.96% to +0.00%) | 4     | better  |
| two      | 1.353 | 2.1140 | -6.81% (-15.62% to +0.00%) | 4     | better  |
| one      | 1.526 | 2.1043 | -7.23% (-12.71% to -1.75%) | 4     | better  |
| none     | 1.700 | 2.1069 | -7.12% (-13.23% to -1.01%) | 4     | better  |

Any layer of the gated delta rule in place of attention gives a lower loss after 200 steps, at equal parameters and for
more FLOPs; how many there are makes no difference that four seeds show.
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
