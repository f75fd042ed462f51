"""Architecture search around `tiny_lm`: parts and settings of its blocks at equal FLOPs.

morphax search search_tiny
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
