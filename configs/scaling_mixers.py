"""Attention and a gated delta rule at four sizes of `tiny_lm`, and how their losses go on with compute.

morphax scale scaling_mixers
morphax scale scaling_mixers --scale colab

| variant  | FLOPs    | loss   | difference of the loss     | seeds | verdict             |
|----------|----------|--------|----------------------------|-------|---------------------|
| baseline | 2.26e+10 | 3.2608 |                            | 3     |                     |
| delta    | 5.8e+10  | 3.3444 | +2.56% (-8.92% to +14.05%) | 3     | no difference shown |
| baseline | 2.1e+11  | 2.6563 |                            | 3     |                     |
| delta    | 4.14e+11 | 2.5431 | -4.26% (-8.98% to +0.46%)  | 3     | no difference shown |
| baseline | 1.09e+12 | 2.2616 |                            | 3     |                     |
| delta    | 1.85e+12 | 2.1073 | -6.83% (-12.83% to -0.82%) | 3     | better              |
| baseline | 1.16e+13 | 1.8042 |                            | 3     |                     |
| delta    | 1.7e+13  | 1.7092 | -5.26% (-6.82% to -3.71%)  | 3     | better              |

Rows are sizes 1/2, 3/4, 1 and 3/2 of equal parameters and tokens; FLOPs are those of a whole run, more of the delta
rule's, so rows of a size compare losses and the laws compare compute. Attention: L = 32.1 C^-0.096 (0.091 to 0.100);
the delta rule: L = 1.126 + 777 C^-0.236 (0.207 to 0.255), which crosses at 7.3e11 FLOPs (5.4e11 to 1.1e12) and may be
extrapolated to 8.4e13. 37 minutes on two cores that other work shared.
"""

from configs.tiny_lm import SCALES
from train.variants import Study


def study() -> Study:
    """Sizes of 1/2, 3/4, 1 and 3/2 around 200 steps of 16 windows of 64 bytes, 3 seeds."""
    return Study(
        "tiny_lm",
        overrides=("steps=200",),
        variants={"delta": ("model.stack.block.mixer=GatedDeltaNet(heads=4)",)},
        budget="parameters",
        seeds=3,
        sizes=(0.5, 0.75, 1.0, 1.5),
        scales=SCALES,
    )
