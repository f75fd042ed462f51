"""Vehicles an hour over the next day: Interstate 94, 17,520 hours with weather, the last fifth as test split.

python -m train traffic_weather
    # 3 minutes on one CPU core; MAE 175, 180, 182 vehicles an hour a day ahead (seeds 0, 1, 2)
morphax predict runs/traffic_weather LAST_FIVE_WEEKS.csv
python -m tests.benchmarks.baselines --only traffic_weather

At 1, 12, 24 h ahead its MAE is 173, 175, 179, its RMSE 254, 262, 265 (means of the seeds); MAE of last week's hour 261,
262, 262, of ridge regression on the model's whole input of the series 153, 242, 236.

On Colab's TPU v5e-1: precision=bfloat16 batch_size=256, 0.9 ms a step or more, 75 MiB, by the compiler
(`make tpu-configs`)."""

from configs.traffic_occupancy import make_model
from train.data.tasks.series import Series
from train.experiment import Evaluation, Experiment
from train.objectives import Quantiles
from train.optimizers import AdamW, Cosine
from train.review.forecasts import Forecasts

LAGS = (24, 168, 336, 504, 672)
WEATHER = ("kelvin", "clouds", "rain", "snow")


def experiment() -> Experiment:
    """2 layers of width 64 over 72 hours, four a token, with weather, calendar, holidays and lags up to 4 weeks."""
    return Experiment(
        model=make_model(72, 24, 4, 64, 3, dropout=0.1),
        objective=Quantiles(),
        data=Series(
            "traffic_weather",
            values=("vehicles",),
            covariates=WEATHER,
            holidays="US",
            context=72,
            patch=4,
            lags=LAGS,
            gaps=12,
        ),
        optimizer=AdamW(Cosine(2e-3, warmup=0.05, end=0.01), decay=0.1, clip=1.0),
        batch_size=64,
        steps=1500,
        evaluation=Evaluation(every=500, batch_size=512, metric="mean_absolute_error"),
        review=Forecasts(horizons=(1, 12, 24)),
    )
