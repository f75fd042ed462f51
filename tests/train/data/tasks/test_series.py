"""Series: windows, the calendar, quantiles and errors against formulas and libraries, and the user's own tables."""

import csv
import datetime
import json
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from models.structure import replace
from tests.train.data.tasks.hours import HOURS, cells, experiment, spec, write
from tests.train.review.evidence import law_metrics_do_not_depend_on_batches_or_devices, trained
from train.baselines import Baseline
from train.charts import Plot
from train.cli import main
from train.contracts import PART
from train.data.sources import Split, open_dataset
from train.data.tasks.series import Series
from train.errors import InputError
from train.objectives import Quantiles
from train.page import Panels, to_html
from train.parallel import Jit
from train.review.forecasts import Forecasts, compute_errors
from train.sums import compute_means


@pytest.fixture
def path(tmp_path: Path) -> str:
    return write(tmp_path / "series.csv", cells())


def test_a_window_holds_what_was_and_what_follows(path: str) -> None:
    opened = spec(path).open()
    table = np.array([[float(row[1]), float(row[2])] for row in cells()], np.float32)
    assert opened.classes == ("north", "south")
    seen = set()
    parts: dict[PART, tuple[int, int]] = {"train": (48, 192 - 12), "test": (192, HOURS - 12)}
    for part, (first, last) in parts.items():
        count = opened.count(part)
        assert count == 2 * (last - first + 1)
        batches = opened.batches(part, 64, 1, None)
        for step in range(len(batches)):
            batch = batches[step]
            for row in np.nonzero(batch["weights"])[0]:
                index = int(batch["index"][row])
                origin, series = first + index // 2, index % 2
                past, future = opened.window(part, index)
                np.testing.assert_allclose(past[:, 0], table[origin - 48 : origin, series])
                np.testing.assert_allclose(future[:, 0], table[origin : origin + 12, series])
                middle, scale = past.mean(), past.std()
                np.testing.assert_allclose(batch["values"][row], (future - middle) / scale, atol=1e-4)
                features = batch["features"][row].reshape(60, -1)
                np.testing.assert_allclose(features[:48, 0], (past[:, 0] - middle) / scale, atol=1e-4)
                assert (features[48:, :2] == 0).all()  # neither values nor weather are known ahead
                hours = (np.arange(origin - 48, origin + 12) % 24) * math.tau / 24
                np.testing.assert_allclose(features[:, 2], np.sin(hours), atol=1e-5)
                seen.add((part, origin, series))
    assert len(seen) == opened.count("train") + opened.count("test")


def test_together_and_restored_give_the_units_of_the_data(path: str) -> None:
    opened = spec(path, channels="together").open()
    batch = opened.batches("test", 5, 1, None)[0]
    example = {name: value[3] for name, value in batch.items()}
    perfect = np.repeat(example["values"][..., None], 3, -1).reshape(-1)
    np.testing.assert_allclose(opened.restored(perfect, example)[..., 1], opened.window("test", 3)[1], atol=1e-4)
    assert batch["features"].shape == (5, 5, 12 * (2 + 1 + 6))


def test_lags_stand_beside_every_step_and_none_is_later_than_what_is_seen(path: str) -> None:
    opened = spec(path, lags=(12, 24)).open()
    table = np.array([[float(row[1]), float(row[2])] for row in cells()], np.float32)
    assert opened.count("train") == 2 * (192 - 12 - (48 + 24) + 1)
    batch = opened.batches("train", 64, 1, None)[0]
    for row in range(64):
        origin, series = 48 + 24 + row // 2, row % 2
        past = table[origin - 48 - 24 : origin, series]
        features = batch["features"][row].reshape(60, -1)
        for place, lag in enumerate((12, 24)):
            expected = (table[origin - 48 - lag : origin + 12 - lag, series] - past.mean()) / past.std()
            np.testing.assert_allclose(features[:, 1 + place], expected, atol=1e-4)
    with pytest.raises(ValueError, match=r"a lag must be known ahead"):
        spec(path, lags=(11,))


def test_public_holidays_are_seen_and_those_of_the_lags(path: str) -> None:
    # from 5 January 2026, a Monday; the 19th is the day of Martin Luther King
    opened = spec(path, lags=(24,), holidays="US").open()
    flags = opened.seen[:, -2:]
    assert opened.seen.shape == (HOURS + 12, 1 + 6 + 2)
    assert not flags.any()
    later = write(
        Path(path).with_name("later.csv"),
        [[row[0].replace("2026-01-0", "2026-01-1"), *row[1:]] for row in cells()[: 24 * 5]],
    )
    # from the 15th to the 19th
    opened = spec(later, lags=(24,), holidays="US", context=24, horizon=12, holdout=0.4).open()
    np.testing.assert_array_equal(opened.seen[:, -2], [float(hour // 24 == 4) for hour in range(24 * 5 + 12)])
    np.testing.assert_array_equal(opened.seen[:, -1], [float(hour // 24 == 5) for hour in range(24 * 5 + 12)])
    with pytest.raises(ValueError, match="a country such as US"):
        spec(path, holidays="Atlantis")
    with pytest.raises(ValueError, match="give a column of times"):
        spec(path, holidays="US", time=None)


def test_a_file_can_be_for_testing_alone(path: str) -> None:
    opened = spec(path, test=path).open(only="test")
    assert opened.count("test") == 2 * (HOURS - 12 - 48 + 1)
    with pytest.raises(InputError, match="too few for a context of 48"):
        spec(path, test=path).open()


def test_the_pinball_loss_is_that_of_scikit_learn() -> None:
    from sklearn import metrics  # takes two seconds of every process that imports it

    for seed in range(100):
        chance = np.random.default_rng(seed)
        values, outputs = (
            chance.normal(size=(4, 5, 2)).astype(np.float32),
            chance.normal(size=(4, 5, 2, 3)).astype(np.float32),
        )
        scale, weights = chance.uniform(1, 3, (4, 1, 2)).astype(np.float32), np.array([1, 1, 0, 1], np.float32)
        batch = {"values": jnp.asarray(values), "scale": jnp.asarray(scale), "weights": jnp.asarray(weights)}
        found = compute_means(Quantiles()(jnp.asarray(outputs.reshape(4, -1)), batch))
        real = weights > 0
        losses = [
            metrics.mean_pinball_loss(values[real].reshape(-1), outputs[real][..., place].reshape(-1), alpha=level)
            for place, level in enumerate((0.1, 0.5, 0.9))
        ]
        assert found["loss"] == pytest.approx(np.mean(np.array(losses)), rel=1e-4)
        truth, guess = (values * scale)[real].reshape(-1), (outputs[..., 1] * scale)[real].reshape(-1)
        assert found["mean_absolute_error"] == pytest.approx(metrics.mean_absolute_error(truth, guess), rel=1e-4)
        absolute, square = compute_errors(truth, guess)
        assert absolute == pytest.approx(np.abs(truth - guess).mean(), rel=1e-5)
        assert square == pytest.approx(np.sqrt(np.square(truth - guess).mean()), rel=1e-5)


@pytest.mark.slow
def test_errors_do_not_depend_on_batches_or_devices(path: str) -> None:
    found = law_metrics_do_not_depend_on_batches_or_devices(
        experiment(path), Forecasts(horizons=(1, 12), season=24, shown=0), 1e-4
    )
    assert set(found) == {"coverage", "mae_1", "mae_12", "rmse_1", "rmse_12"}


def test_the_forecasts_that_need_no_model_are_what_they_say(path: str) -> None:
    found = Forecasts(horizons=(1, 12), season=24, shown=2).review(trained(experiment(path, "together"), Jit(), 64))
    table = np.array([[float(row[1]), float(row[2])] for row in cells()])
    origins = np.arange(192, HOURS - 12 + 1)
    for step in (1, 12):
        last = np.abs(table[origins + step - 1] - table[origins - 1])
        assert f"<td>{last.mean():.4g} / {np.sqrt((last**2).mean()):.4g}</td>" in to_html(
            found.pictures["Errors on the test part"]
        )
    panels = found.pictures["Forecasts: the middle quantile and the outer two, over what came"]
    assert isinstance(panels, Panels)
    assert to_html(panels).count("<svg") == 2
    for panel in panels.charts:
        assert isinstance(panel, Plot)
        start = int(panel.title.rpartition(" ")[2]) - 1
        came = next(series.points for series in panel.series if series.name == "came")
        np.testing.assert_allclose(came, np.stack([np.arange(1, 13), table[start : start + 12, 0]], 1), rtol=1e-6)
    assert found.metrics["mae_12"] > 0
    first = found.baselines["mae_12"][0]
    assert first == Baseline("last value", first.value)
    assert first.value == pytest.approx(last.mean(), rel=1e-6)
    assert [baseline.name for baseline in found.baselines["rmse_1"]] == ["last value", "24 steps before"]


def test_the_season_before_is_known_where_lags_reach_it_beyond_the_context(path: str) -> None:
    lagged = replace(experiment(path, "together"), "data.lags", (72,))
    found = Forecasts(horizons=(1,), season=72, shown=1).review(trained(lagged, Jit(), 64))
    table = np.array([[float(row[1]), float(row[2])] for row in cells()])
    origins = np.arange(192, HOURS - 12 + 1)
    error = np.abs(table[origins] - table[origins - 72])
    assert f"<td>{error.mean():.4g} / {np.sqrt((error**2).mean()):.4g}</td>" in to_html(
        found.pictures["Errors on the test part"]
    )


def test_a_season_out_of_reach_is_left_out_and_a_horizon_that_is_not_forecast_refused(path: str) -> None:
    one = trained(experiment(path, "together"), Jit(), 64)
    found = Forecasts(horizons=(1, 500), season=5000, shown=0).review(one)
    assert set(found.metrics) == {"coverage", "mae_1", "rmse_1"}
    assert "nan" not in to_html(found.pictures["Errors on the test part"])
    assert "before" not in to_html(found.pictures["Errors on the test part"])
    with pytest.raises(
        InputError, match=r"review\.horizons is \(500,\) and data\.horizon 12; name a step that is forecast"
    ):
        Forecasts(horizons=(500,)).ready(one.data)


def test_hours_of_the_data_sets_are_in_their_order(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))
    weather = open_dataset("traffic_weather", "hours").examples
    times = [
        datetime.datetime.fromisoformat(hour.decode())
        for index in range(len(weather))
        for hour in weather[index]["time"]
    ]
    assert len(times) == 17_520
    assert {later - earlier for earlier, later in zip(times, times[1:], strict=False)} == {datetime.timedelta(hours=1)}
    occupancy = open_dataset("traffic_occupancy", "hours").examples
    assert 24 * len(occupancy) == 17_544
    column = np.concatenate([occupancy[index]["sensor_00"] for index in range(20)])
    assert np.corrcoef(column[:-24], column[24:])[0, 1] > 0.5


def test_an_example_may_hold_several_steps_and_all_of_its_columns_as_many() -> None:
    one = [{"a": np.arange(3.0) + 3 * row, "b": np.arange(3.0)} for row in range(2)]
    names, values, *_ = Series(time=None).table(Split(one, "here", {}))
    assert names == ("a", "b")
    assert values.T.tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 1, 2]]
    with pytest.raises(InputError, match=r"here, example 2, has columns of several shapes \(a \(3,\), b \(2,\)\)"):
        Series(time=None).table(Split([one[0], one[1] | {"b": np.arange(2.0)}], "here", {}))


def test_a_users_table_is_forecast_beyond_its_end(
    path: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))
    run = str(tmp_path / "run")
    small = [
        "model.embed.width=16",
        "model.stack.repeats=1",
        "model.head.pool.first=-3",
        "steps=60",
        "evaluation.every=30",
        "optimizer.rate.peak=0.01",
    ]
    data = [
        f"data.path={path}",
        "data.values=('north', 'south')",
        "data.covariates=('rain',)",
        "data.context=48",
        "data.horizon=12",
    ]
    data += ["data.lags=(24,)"]
    assert main(["train", "traffic_weather", *small, *data, "batch_size=32", "--run", run, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["review"]["mae_1"] < 0.8
    assert main(["predict", run, path, "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert [answer["input"] for answer in answers] == [f"{path}:north", f"{path}:south"]
    ahead = np.array(answers[0]["forecast"]["0.5"])
    wave = 10 + np.sin(np.arange(HOURS, HOURS + 12) * math.tau / 24)
    assert np.abs(ahead - wave).mean() < 0.6
    short = tmp_path / "short.csv"
    with open(short, "w", newline="") as file:
        csv.writer(file).writerows([["time", "north", "south", "rain"], *cells()[:20]])
    assert main(["predict", run, str(short)]) == 2
    assert "short.csv has 20 rows and the model sees 72" in capsys.readouterr().err
