"""Steady motion of one of four handwritten digits: 8,000 / 1,000 clips, eight directions.

python -m train video_motion
morphax predict runs/video_motion VIDEO.mp4 FOLDER

7 minutes at 310 clips a second on two CPU cores; accuracy 0.993, 0.991, 0.996 (seeds 0, 1, 2), and 0.116, 0.110, 0.128
with the frames of each clip shuffled, where no model can do better than chance, 0.125 (the builder says why).  Logistic
regression on the pixels of all frames gives 0.170, on those of the first and the last 0.144 (`python -m
tests.benchmarks.baselines --only video_motion`).

On Colab's TPU v5e-1: precision=bfloat16 batch_size=256, 10.9 ms a step or more, 523 MiB, by the compiler
(`make tpu-configs`)."""

from models import (
    MLP,
    Along,
    Attention,
    AxialRoPE,
    Block,
    ClassHead,
    LayerNorm,
    LearnedPosition,
    MeanPool,
    RoPE,
    Stack,
    Transformer,
    TubeletEmbed,
)
from train.data.tasks.clips import Clips
from train.experiment import Evaluation, Experiment
from train.objectives import Classification
from train.optimizers import AdamW, Cosine
from train.review.clips import ClipClasses


def make_model(
    grid: tuple[int, int, int], frames: int, size: int, width: int, repeats: int, classes: int
) -> Transformer:
    """Embeds tubelets; attention over space, then over time, then the MLP (ViViT's model 3, arXiv:2103.15691)."""
    space = Block(Along(grid, (1, 2), Attention(4, position=AxialRoPE(grid[1:]))), None)
    time = Block(Along(grid, (0,), Attention(4, position=RoPE())), MLP(2.0))
    return Transformer(
        embed=TubeletEmbed(width, frames, size, position=LearnedPosition(grid[0] * grid[1] * grid[2])),
        stack=Stack((space, time), repeats, LayerNorm()),
        head=ClassHead(classes, MeanPool()),
    )


def experiment() -> Experiment:
    """3 times two layers of width 64 over 4 x 4 x 4 tubelets of 2 frames and 8 x 8 pixels, 64 clips a step."""
    return Experiment(
        model=make_model((4, 4, 4), frames=2, size=8, width=64, repeats=3, classes=8),
        objective=Classification(),
        data=Clips("moving_digits"),
        optimizer=AdamW(Cosine(2e-3, warmup=0.05, end=0.01), decay=0.05, clip=1.0),
        batch_size=64,
        steps=2000,
        evaluation=Evaluation(every=500, batch_size=100, metric="accuracy", greater=True),
        review=ClipClasses(),
    )
