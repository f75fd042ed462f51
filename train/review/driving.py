"""Closed-loop driving by the model: collisions and rewards beside an expert's, returns reached over asked, a film."""

import dataclasses
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from train.baselines import Baseline
from train.charts import Plot, Series
from train.contracts import Dataset, Evidence, Findings
from train.data.simulators.highway import (
    CARS,
    FEATURES,
    LANES,
    STEPS,
    WIDTH,
    Highway,
    Style,
    Trip,
    drive,
    load_simulator,
)
from train.errors import InputError
from train.page import Figure, Piece, Sentence, make_table
from train.review.powers import Driven, make_missing_error

if TYPE_CHECKING:
    from PIL import Image

ROAD, LINE, OTHER, OWN, BROKEN = (90, 90, 90), (220, 220, 220), (170, 200, 230), (90, 190, 90), (220, 70, 60)
METRES, SCALE = 120, 4  # the length of road that a film shows, and pixels a metre


@dataclasses.dataclass(frozen=True)
class ClosedLoop:
    """Closed-loop driving: `episodes` drives of `steps` steps by the model, and by an expert from the same new seeds.

    `collision_rate` and `off_road_rate` are shares of episodes, which end there; `time_on_road` is the share of steps
    until then; `reward_ratio` is the sum of the rewards over the expert's; `mean_speed` is in m/s.  The expert is the
    Intelligent Driver Model with MOBIL and a desired speed of 30 m/s.  With returns `asked`, each is asked for in every
    episode: `return_correlation` is the rank correlation of returns asked and reached, `reached_R` the mean reached for
    R, and `reward_ratio` that of the highest.  Shows a film of the first drive if `film`.
    """

    episodes: int = 50
    asked: tuple[float, ...] = ()
    steps: int = STEPS
    film: bool = True

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.steps < 1:
            raise ValueError(f"ClosedLoop has episodes {self.episodes} and steps {self.steps}; give 1 or more of each.")

    def ready(self, data: Dataset) -> None:
        """Raises InputError for data of no drives, for drives longer than the data's, and without the simulator."""
        if not isinstance(data, Driven):
            raise make_missing_error(self, data, "drives")
        if (horizon := data.spec.horizon) is not None and self.steps > horizon:
            raise InputError(f"review.steps is {self.steps} and data.horizon {horizon}; drive no longer than that.")
        if (data.features, data.actions) == (FEATURES, 2):
            try:
                load_simulator()
            except LookupError as error:
                raise InputError(str(error)) from None

    def names(self, data: Dataset) -> tuple[str, ...]:
        """The metrics of all drives.  Raises ValueError for data that is not the simulation's."""
        if not isinstance(data, Driven):
            raise make_missing_error(self, data, "drives")
        if (data.features, data.actions) != (FEATURES, 2):
            raise ValueError(f"the simulation has {FEATURES} features and 2 actions, and the data has others")
        reached = ("return_correlation", *(f"reached_{level:g}" for level in self.asked)) if self.asked else ()
        return "collision_rate", "off_road_rate", "time_on_road", "mean_speed", "reward_ratio", *reached

    def measure(self, evidence: Evidence) -> dict[str, tuple[float, float]]:
        """The metrics of all drives, without intervals."""
        plain = dataclasses.replace(self, film=False).review(evidence)
        return {name: (value, math.inf) for name, value in plain.metrics.items()}

    def review(self, evidence: Evidence) -> Findings:
        """The findings of all drives; none if the data's features and actions are not the simulation's."""
        data = evidence.data
        if not isinstance(data, Driven):
            raise make_missing_error(self, data, "drives")
        if (data.features, data.actions) != (FEATURES, 2):
            said = f"The data has {data.features} features and {data.actions} actions, and the simulation has"
            said += f" {FEATURES} and 2."
            return Findings(pictures={"No drive with the model at the wheel": Sentence(said)})
        self.ready(data)
        expert = drive(self._make_highways(), None, self.steps, evidence.stopped)
        asked = np.repeat(self.asked or (0.0,), self.episodes)
        wheel = Wheel(evidence, asked, self.steps)
        highways = [highway for _ in self.asked or (0.0,) for highway in self._make_highways()]
        trips = drive(highways, wheel, self.steps, evidence.stopped)
        if evidence.stopped():
            return Findings()
        highest = (
            trips
            if not self.asked
            else [trip for trip, level in zip(trips, asked, strict=True) if level == max(self.asked)]
        )
        metrics = self.compute_metrics(trips)
        rows = [
            (name, *(f"{self.compute_metrics(drives)[name]:.3g}" for drives in (trips, expert))) for name in metrics
        ]
        metrics |= {"reward_ratio": sum_rewards(highest) / max(sum_rewards(expert), 1e-9)}
        rows.append(("reward an episode", *(f"{sum_rewards(some) / len(some):.1f}" for some in (trips, expert))))
        pictures: dict[str, Piece] = {}
        pictures[f"{self.episodes} drives from seeds that no log has"] = make_table(("", "model", "expert"), rows)
        if self.asked:
            reached = np.array([sum(trip.rewards) for trip in trips])
            metrics |= {"return_correlation": correlate(asked, reached)}
            metrics |= {f"reached_{level:g}": float(reached[asked == level].mean()) for level in self.asked}
            pictures["Return reached over return asked; the line is what was asked"] = plot_returns(asked, reached)
        if self.film:
            drawn = draw_film(highest[0], expert[0])
            pictures["The model's drive above, the expert's below, from the same seed"] = drawn
        return Findings(metrics, pictures, self.list_baselines(expert))

    def list_baselines(self, expert: Sequence[Trip]) -> dict[str, tuple[Baseline, ...]]:
        """Lists the expert's metrics as baselines."""
        metrics = self.compute_metrics(expert) | {"reward_ratio": 1.0}
        return {name: (Baseline("expert", value, simple=False),) for name, value in metrics.items()}

    def _make_highways(self) -> list[Highway]:
        return [Highway("closed", number, [Style()]) for number in range(self.episodes)]

    def compute_metrics(self, trips: Sequence[Trip]) -> dict[str, float]:
        """Computes the metrics of drives."""
        return {
            "collision_rate": float(np.mean([trip.crashed for trip in trips])),
            "off_road_rate": float(np.mean([trip.left for trip in trips])),
            "time_on_road": float(np.mean([len(trip.rewards) - trip.ended for trip in trips]) / self.steps),
            "mean_speed": float(np.mean([np.mean(trip.speeds) for trip in trips])),
        }


class Wheel:
    """The model as a policy: (seen, rewards) -> actions of all drivers in one call.

    It runs as the same program on one device in any parallelism.
    """

    def __init__(self, evidence: Evidence, asked: np.ndarray, steps: int) -> None:
        data = evidence.data
        assert isinstance(data, Driven)
        self.spec, self.outputs = data.spec, evidence.alone()
        self.context, self.left, self.step = self.spec.context, asked.astype(np.float64), 0
        room = (len(asked), steps + self.context)
        self.known = {
            name: np.zeros((*room, width), np.float32)
            for name, width in (("features", FEATURES), ("actions", 2), ("returns", 1))
        }

    def __call__(self, seen: np.ndarray, rewards: np.ndarray) -> np.ndarray:
        step, first = self.step, max(self.step + 1 - self.context, 0)
        self.left = self.left - rewards
        self.known["features"][:, step] = seen
        self.known["returns"][:, step, 0] = self.spec.scale_returns(self.left, np.array(step))
        batch = {name: value[:, first : first + self.context] for name, value in self.known.items()}
        positions = np.arange(first, first + self.context, dtype=np.int32)
        outputs = self.outputs(batch | {"positions": np.tile(positions, (len(seen), 1))})
        actions = np.clip(np.asarray(outputs, np.float32)[:, step - first], -1, 1)
        self.known["actions"][:, step] = actions
        self.step += 1
        return actions


def sum_rewards(trips: Sequence[Trip]) -> float:
    """Sums all rewards."""
    return float(sum(sum(trip.rewards) for trip in trips))


def correlate(asked: np.ndarray, reached: np.ndarray) -> float:
    """Computes Spearman's rank correlation; 0 if one of them is constant."""
    from scipy import stats

    if np.ptp(asked) == 0 or np.ptp(reached) == 0:
        return 0.0
    return float(np.asarray(stats.spearmanr(asked, reached))[0])


def plot_returns(asked: np.ndarray, reached: np.ndarray) -> Plot:
    """Plots returns reached over returns asked."""
    levels = np.unique(asked).tolist()
    means = tuple((level, float(reached[asked == level].mean())) for level in levels)
    series = (
        Series("as asked", tuple((level, level) for level in levels), "dashed", None),
        Series("mean", means, colour=0),
        Series("drives", tuple(zip(asked.tolist(), reached.tolist(), strict=True)), "points", 1),
    )
    return Plot(series, "return asked", "return reached")


def draw_film(model: Trip, expert: Trip) -> Figure:
    """Draws two drives at double speed, one above the other."""
    from PIL import Image

    count = max(len(model.scenes), len(expert.scenes))
    frames = []
    for step in range(0, count, 2):
        panels = [draw_panel(trip, step) for trip in (model, expert)]
        whole = Image.new("P", (panels[0].width, 2 * panels[0].height + 8), len(PALETTE) - 1)
        for index, panel in enumerate(panels):
            whole.paste(panel, (0, index * (panel.height + 8)))
        whole.putpalette([channel for colour in PALETTE for channel in colour])
        frames.append(whole)
    data = io.BytesIO()
    frames[0].save(data, format="GIF", save_all=True, append_images=frames[1:], duration=200, loop=0, optimize=False)
    return Figure(data.getvalue(), "gif")


PALETTE = (ROAD, LINE, OTHER, OWN, BROKEN, (255, 255, 255))


def draw_panel(trip: Trip, step: int) -> "Image.Image":
    """Draws the road around a driver at a step, or at its last step; its vehicle is green, and red after a crash."""
    from PIL import Image, ImageDraw

    scene = trip.scenes[min(step, len(trip.scenes) - 1)]
    over = trip.ended and step >= len(trip.scenes) - 1
    height = int(SCALE * WIDTH * LANES)
    image = Image.new("P", (SCALE * METRES, height), 0)
    draw = ImageDraw.Draw(image)
    begin = scene[0, 0] - METRES / 3
    for lane in range(1, LANES):
        first = -(begin % 10)
        for mark in np.arange(first, METRES, 10):
            draw.line([(SCALE * mark, SCALE * WIDTH * lane), (SCALE * (mark + 4), SCALE * WIDTH * lane)], fill=1)
    for car in reversed(range(CARS)):
        along, across, heading, _ = scene[car]
        turn = np.array([[np.cos(heading), -np.sin(heading)], [np.sin(heading), np.cos(heading)]])
        corners = np.array([[2.5, 1], [2.5, -1], [-2.5, -1], [-2.5, 1]]) @ turn.T + [along - begin, across + WIDTH / 2]
        draw.polygon([tuple(corner) for corner in corners * SCALE], fill=(4 if over else 3) if car == 0 else 2)
    return image
