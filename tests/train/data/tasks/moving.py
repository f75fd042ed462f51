"""Small videos of moving squares, and a classifier of them."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from models import MLP, Along, Attention, Block, ClassHead, LearnedPosition, MeanPool, Stack, Transformer, TubeletEmbed
from train.data.tasks.clips import Clips
from train.experiment import Evaluation, Experiment
from train.objectives import Classification
from train.optimizers import AdamW, Constant
from train.review.clips import ClipClasses


def write(path: Path, frames: Sequence[np.ndarray], ticks: Sequence[int] = (), before: int = 0, **options: str) -> None:
    """A video of frames (rows, columns, 3), with a usual codec; at the milliseconds `ticks`, so many of them `before`
    the start.
    """
    codec = {".webm": "libvpx", ".gif": "gif"}.get(path.suffix, "mpeg4")
    with av.open(str(path), "w", options=options) as container:
        stream: Any = container.add_stream(codec, rate=10)
        if ticks:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        for number, frame in enumerate(frames):
            made = av.VideoFrame.from_ndarray(frame, "rgb24")
            if ticks:
                made.pts, made.time_base = ticks[number], Fraction(1, 1000)
            for packet in stream.encode(made):
                packet.pts, packet.dts = packet.pts - before, packet.dts - before
                container.mux(packet)
        container.mux(stream.encode())


def moving(seed: int, way: int, count: int = 10, rows: int = 32, columns: int = 48) -> list[np.ndarray]:
    """A bright block that goes to the right (1) or to the left (-1), over noise."""
    draw = np.random.default_rng(seed)
    frames = draw.integers(0, 60, (count, rows, columns, 3), np.uint8)
    top = int(draw.integers(4, rows - 12))
    for number in range(count):
        left = (number if way > 0 else count - 1 - number) * (columns - 8) // max(count - 1, 1)
        frames[number, top : top + 10, left : left + 8] = 230
    return list(frames)


def experiment(place: Path) -> Experiment:
    """A tiny model of factorised space-time attention over six small frames."""
    grid = (3, 2, 3)
    blocks = Block(Along(grid, (1, 2), Attention(2)), None), Block(Along(grid, (0,), Attention(2)), MLP(1.0))
    return Experiment(
        model=Transformer(
            TubeletEmbed(16, 2, 4, position=LearnedPosition(18)), Stack(blocks, 1), ClassHead(2, MeanPool())
        ),
        objective=Classification(),
        data=Clips(path=str(place), test=str(place), size=(8, 12), frames=6),
        optimizer=AdamW(Constant(5e-3)),
        batch_size=8,
        steps=60,
        evaluation=Evaluation(every=30, batch_size=8, metric="accuracy", greater=True),
        review=ClipClasses(shown=4),
    )
