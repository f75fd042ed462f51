"""Architecture search around `tiny_lm`: parts and settings of its blocks at equal FLOPs.

morphax search search_tiny

| variant  | FLOPs | loss   | difference of the loss    | seeds | verdict             |
|----------|-------|--------|---------------------------|-------|---------------------|
| baseline | 1.000 | 2.4025 |                           | 8     |                     |
| c4       | 0.998 | 2.3525 | -2.08% (-4.49% to +0.32%) | 8     | no difference shown |
| c18      | 1.010 | 2.3717 | -1.28% (-2.62% to +0.40%) | 8     | no difference shown |

c4 has AttentionResiduals() for its residual, c18 InterpolatedRoPE() and a gate in its mixer. The search saw gains of
1.81 % and 1.08 % of the loss on one seed; on eight fresh seeds and held-out data that chose nothing they are 2.08 % and
1.28 %, so no winner's curse shows, and eight seeds do not decide. Of 18 candidates one could not be built, one could
not have the baseline's FLOPs, and a third drawn before was drawn anew; the search with its comparison took 21 minutes
on two cores that other work shared.
"""

from train.variants import Search


def search() -> Search:
    """16 candidates in two generations, 150 steps of 16 windows of 64 bytes on the last rung, 2 winners."""
    return Search(
        "tiny_lm",
        overrides=("steps=150",),
        candidates=16,
        population=8,
        rungs=(1 / 3, 1.0),
        keep=0.5,
        winners=2,
        most=8,
        smallest=0.01,
    )
