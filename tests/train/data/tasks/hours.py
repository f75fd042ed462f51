"""An hourly table of two series, and data and experiments on it."""

import datetime
import math
from pathlib import Path
from typing import Any

from models import Attention, Block, FeatureEmbed, MeanPool, Stack, Transformer, ValueHead
from train.data.tasks.series import Series
from train.experiment import Evaluation, Experiment
from train.objectives import Quantiles
from train.optimizers import AdamW

HOURS = 240


def cells() -> list[list[str]]:
    """Rows of a time, two series and a covariate; the series are sines of a day."""
    start, rows = datetime.datetime(2026, 1, 5), []
    for hour in range(HOURS):
        wave = math.sin(hour * math.tau / 24)
        rows.append(
            [str(start + datetime.timedelta(hours=hour)), f"{10 + wave:.5f}", f"{-3 + 2 * wave:.5f}", f"{hour % 5}"]
        )
    return rows


def write(path: Path, rows: list[list[str]], end: str = "\n", mark: str = "") -> str:
    lines = [["time", "north", "south", "rain"], *rows]
    path.write_text(mark + end.join(",".join(row) for row in lines) + end, encoding="utf-8", newline="")
    return str(path)


def spec(path: str, **settings: Any) -> Series:
    return Series(**{"path": path, "covariates": ("rain",), "context": 48, "horizon": 12, "patch": 12} | settings)


def experiment(path: str, channels: Any = "each") -> Experiment:
    """A tiny forecaster."""
    return Experiment(
        model=Transformer(
            FeatureEmbed(8),
            Stack(Block(Attention(2)), 1),
            ValueHead(36 * (2 if channels == "together" else 1), MeanPool()),
        ),
        objective=Quantiles(),
        data=spec(path, channels=channels),
        optimizer=AdamW(),
        batch_size=8,
        steps=1,
        evaluation=Evaluation(batch_size=16),
    )
