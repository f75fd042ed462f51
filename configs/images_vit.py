"""A vision transformer from scratch on images of clothes: Fashion-MNIST, 60,000 / 10,000, ten classes.

python -m train images_vit     # 24 minutes on one CPU core; accuracy 0.920 (seed 0), and 0.9125 with epochs=10
morphax predict runs/images_vit IMAGE.png FOLDER
python -m tests.benchmarks.baselines --only images_vit     # logistic regression on pixels: 0.840

On Colab's TPU v5e-1: precision=bfloat16 batch_size=512, 4.5 ms a step or more, 309 MiB, by the compiler
(`make tpu-configs`)."""

from models import (
    MLP,
    Attention,
    AxialRoPE,
    Block,
    ClassHead,
    ConvEmbed,
    LayerNorm,
    LearnedPosition,
    MeanPool,
    PreNorm,
    Stack,
    Transformer,
)
from train.data.tasks.images import Images
from train.data.transforms.augment import Augment
from train.experiment import Evaluation, Experiment
from train.objectives import Classification
from train.optimizers import AdamW, Cosine
from train.review.classes import Classes


def experiment() -> Experiment:
    """3 layers of width 64 over 7 x 7 patches of a convolutional stem; 64 images a step, shifted and flipped."""
    return Experiment(
        model=Transformer(
            embed=ConvEmbed(64, (32, 64, 128), (2, 1, 2), None, 0, position=LearnedPosition(49)),
            stack=Stack(
                Block(
                    mixer=Attention(4, position=AxialRoPE((7, 7))), feedforward=MLP(2.0), residual=PreNorm(LayerNorm())
                ),
                repeats=3,
                norm=LayerNorm(),
            ),
            head=ClassHead(10, MeanPool()),
        ),
        objective=Classification(),
        data=Images("fashion_mnist", augment=Augment(shift=0.04, mirror=True)),
        optimizer=AdamW(Cosine(2e-3, warmup=0.05, end=0.01), decay=0.05, clip=1.0),
        batch_size=64,
        epochs=16,
        evaluation=Evaluation(batch_size=500, metric="accuracy", greater=True),
        review=Classes(),
    )
