"""Optimizers of `tiny_lm`, each at the best of six rates: AdamW against Muon, Lion, schedule-free AdamW and Adafactor.

morphax compare compare_optimizers
morphax compare compare_optimizers --scale colab
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
