"""How full roads will be over the next day: PeMS occupancy, 17,544 hours at 20 sensors, the last fifth to test on.

python -m train traffic_occupancy
python -m train traffic_occupancy data.channels=together model.head.values=1440     # all sensors seen at once
morphax predict runs/traffic_occupancy LAST_TWO_WEEKS.csv
"""

from models import MLP, Attention, Block, FeatureEmbed, LastTokens, LayerNorm, LearnedPosition, PreNorm, Stack, Transformer, ValueHead
from train.data.series import Series
from train.experiment import Evaluation, Experiment
from train.objective import Quantiles
from train.optimizer import AdamW, Cosine
from train.review.forecasts import Forecasts


def model(patches: int, width: int, repeats: int, values: int, read: int, dropout: float = 0.1) -> Transformer:
    """An encoder over patches of a series (PatchTST, arXiv:2211.14730); the last `read` of them give all that follows."""
    block = Block(mixer=Attention(4), feedforward=MLP(2.0), residual=PreNorm(LayerNorm()), dropout=dropout)
    return Transformer(
        embed=FeatureEmbed(width, LearnedPosition(patches)),
        stack=Stack(block, repeats=repeats, norm=LayerNorm()),
        head=ValueHead(values, LastTokens(read), dropout),
    )


def experiment() -> Experiment:
    """3 layers of width 96 over two weeks in patches of 12 hours; every sensor is an example of its own, 128 windows a step."""
    return Experiment(
        model=model(patches=30, width=96, repeats=3, values=24 * 3, read=30),
        objective=Quantiles(),
        data=Series("traffic_occupancy", time=None),
        optimizer=AdamW(Cosine(1e-3, warmup=0.05, end=0.01), decay=0.05, clip=1.0),
        batch_size=128,
        steps=3000,
        evaluation=Evaluation(every=1000, batch_size=1024, metric="mean_absolute_error"),
        review=Forecasts(),
    )
