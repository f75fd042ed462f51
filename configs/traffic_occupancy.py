"""Road occupancy over the next day: PeMS, 17,544 hours at 20 sensors, the last fifth as test split.

python -m train traffic_occupancy
python -m train traffic_occupancy data.channels=together     # all sensors at once: 0.0127, 0.0126, 0.0129 (seed 0)
morphax predict runs/traffic_occupancy LAST_THREE_WEEKS.csv
python -m tests.benchmarks.baselines --only traffic_occupancy

4 minutes at 1,900 windows a second on one CPU core; at 1, 3, 12 h ahead MAE 0.0109 to 0.0114, 0.0112 to 0.0113, 0.0116
to 0.0117, RMSE 0.0272 to 0.0284, 0.0280 to 0.0283, 0.0285 to 0.0286 (seeds 0 to 2).  The last value is 0.0174, 0.0394,
0.0698 off (MAE), last week's hour 0.0148, ridge regression on the model's whole input of the series 0.0112, 0.0141,
0.0139.

On Colab's TPU v5e-1: precision=bfloat16 batch_size=1024, 2.2 ms a step or more, 134 MiB, by the compiler
(`make tpu-configs`)."""

from models import (
    MLP,
    Attention,
    Block,
    EveryToken,
    FeatureEmbed,
    LayerNorm,
    LearnedPosition,
    PreNorm,
    Stack,
    Transformer,
    ValueHead,
)
from train.data.tasks.series import Series
from train.experiment import Evaluation, Experiment
from train.objectives import Quantiles
from train.optimizers import AdamW, Cosine
from train.review.forecasts import Forecasts


def make_model(context: int, horizon: int, patch: int, width: int, quantiles: int, dropout: float = 0.0) -> Transformer:
    """Encodes patches of context and horizon (arXiv:2211.14730) with lags and calendar; quantiles of the horizon."""
    block = Block(mixer=Attention(4), feedforward=MLP(), residual=PreNorm(LayerNorm()), dropout=dropout)
    return Transformer(
        embed=FeatureEmbed(width, LearnedPosition((context + horizon) // patch)),
        stack=Stack(block, repeats=2, norm=LayerNorm()),
        head=ValueHead(patch * quantiles, EveryToken(1, -horizon // patch)),
    )


def experiment() -> Experiment:
    """2 layers of width 64 over 48 hours, four a token; lags of a day, a week and two weeks; 128 windows a step."""
    return Experiment(
        model=make_model(48, 24, 4, 64, 3),
        objective=Quantiles(),
        data=Series("traffic_occupancy", time=None, context=48, patch=4, lags=(24, 168, 336)),
        optimizer=AdamW(Cosine(2e-3, warmup=0.05, end=0.01), decay=0.05, clip=1.0),
        batch_size=128,
        steps=2000,
        evaluation=Evaluation(every=1000, batch_size=1024, metric="mean_absolute_error"),
        review=Forecasts(),
    )
