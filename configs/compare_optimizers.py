"""Optimizers of `tiny_lm`, each at the best of six rates: AdamW against Muon, Lion, schedule-free AdamW and Adafactor.

morphax compare compare_optimizers
morphax compare compare_optimizers --scale colab

| variant   | FLOPs | loss   | difference of the loss      | seeds | verdict             |
|-----------|-------|--------|-----------------------------|-------|---------------------|
| baseline  | 1.000 | 2.2675 |                             | 6     |                     |
| muon      | 1.478 | 1.9645 | -13.58% (-20.09% to -7.07%) | 4     | better              |
| lion      | 1.000 | 2.2713 | +0.17% (-6.20% to +6.54%)   | 6     | no difference shown |
| free      | 1.000 | 2.0911 | -7.80% (-12.74% to -2.86%)  | 5     | better              |
| adafactor | 1.000 | 2.1310 | -6.04% (-11.28% to -0.79%)  | 5     | better              |

Muon is ahead at a half more FLOPs and time a step, then schedule-free AdamW and Adafactor; Lion does as AdamW does.
Best rates: 3e-3 of AdamW and schedule-free AdamW, 1e-2 of Muon, 1e-3 of Lion, 3e-2 of Adafactor, none at an end of the
grid. With a grid that ended at 1e-2 Adafactor was called worse by 4.8 %: it had lost to the grid. 24 minutes on two
cores that other work shared.
"""

from configs.tiny_lm import SCALES
from train.variants import Study

RATE = "Cosine(2e-3, warmup=0.05, end=0.1)"


def study() -> Study:
    """200 steps of 16 windows of 64 bytes, at most 6 seeds; one structure, its rate tuned alike for all."""
    return Study(
        "tiny_lm",
        overrides=("steps=200",),
        variants={
            "muon": (f"optimizer=Muon({RATE})",),
            "lion": (f"optimizer=Lion({RATE})",),
            "free": ("optimizer=ScheduleFreeAdamW(Constant(2e-3, warmup=0.05))",),
            "adafactor": (f"optimizer=Adafactor({RATE})",),
        },
        grid=tuple(f"optimizer.rate.peak={rate}" for rate in ("3e-4", "1e-3", "3e-3", "1e-2", "3e-2", "1e-1")),
        budget="none",
        most=6,
        smallest=0.01,
        scales=SCALES,
    )
