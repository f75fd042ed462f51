"""Handwritten digits detected in images of 64 x 64 pixels: 4,000 / 500 images of one to four digits, made by a rule.

python -m train detect_digits
    # 6 minutes on one CPU core; mAP50 0.960, 0.959, 0.959, mAP 0.757, 0.757, 0.761 (seeds 0, 1, 2)
morphax predict runs/detect_digits IMAGE.png
python -m tests.benchmarks.baselines --only detect_digits
    # mAP50 0.911, mAP 0.733: connected regions, logistic regression

On Colab's TPU v5e-1: precision=bfloat16 batch_size=128, 2.4 ms a step or more, 167 MiB, by the compiler
(`make tpu-configs`)."""

from models import MLP, Attention, Block, BoxHead, ConvEmbed, LayerNorm, LearnedPosition, PreNorm, Stack, Transformer
from train.data.tasks.boxes import Boxes
from train.data.transforms.augment import Augment
from train.experiment import Evaluation, Experiment
from train.objectives import SetPrediction
from train.optimizers import AdamW, Cosine
from train.review.detections import Detections


def make_model(classes: int, grid: tuple[int, int], width: int, channels: tuple[int, ...], repeats: int) -> Transformer:
    """A transformer encoder over the cells of a convolutional stem; every cell is a query."""
    return Transformer(
        embed=ConvEmbed(width, channels, registers=0, position=LearnedPosition(grid[0] * grid[1])),
        stack=Stack(
            Block(mixer=Attention(4), feedforward=MLP(), residual=PreNorm(LayerNorm())),
            repeats=repeats,
            norm=LayerNorm(),
        ),
        head=BoxHead(classes, grid),
    )


def experiment() -> Experiment:
    """3 layers of width 96 over 8 x 8 cells, 32 images a step."""
    return Experiment(
        model=make_model(10, (8, 8), 96, (24, 48, 96), 3),
        objective=SetPrediction(),
        data=Boxes("digit_scenes", size=(64, 64), channels=1, most=4, augment=Augment(shift=0.1)),
        optimizer=AdamW(Cosine(1e-3, warmup=0.05, end=0.01), decay=0.05, clip=1.0),
        batch_size=32,
        epochs=30,
        evaluation=Evaluation(every=625, batch_size=100),
        review=Detections(),
    )
