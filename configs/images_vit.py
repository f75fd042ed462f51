"""A vision transformer from scratch on pictures of clothes: Fashion-MNIST, 60,000 / 10,000, ten kinds.

python -m train images_vit
morphax predict runs/images_vit PICTURE.png FOLDER
"""

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
from train.data.augment import Augment
from train.data.images import Images
from train.experiment import Evaluation, Experiment
from train.objective import Classification
from train.optimizer import AdamW, Cosine
from train.review.classes import Classes


def experiment() -> Experiment:
    """4 layers of width 96 over 7 x 7 patches of a convolutional stem, 128 pictures a step, moved by up to two pixels and mirrored."""
    return Experiment(
        model=Transformer(
            embed=ConvEmbed(96, (32, 64, 64), (2, 1, 2), registers=0, position=LearnedPosition(49)),
            stack=Stack(
                Block(mixer=Attention(4, position=AxialRoPE((7, 7))), feedforward=MLP(2.0), residual=PreNorm(LayerNorm())),
                repeats=4,
                norm=LayerNorm(),
            ),
            head=ClassHead(10, MeanPool()),
        ),
        objective=Classification(),
        data=Images("fashion_mnist", augment=Augment(shift=0.07, mirror=True)),
        optimizer=AdamW(Cosine(1e-3, warmup=0.1, end=0.01), decay=0.05, clip=1.0),
        batch_size=128,
        epochs=8,
        evaluation=Evaluation(batch_size=500, metric="accuracy", greater=True),
        review=Classes(),
    )
