"""Driving with the model at the wheel: collisions and rewards beside an expert's, returns reached over returns asked,
and a film.
"""

import dataclasses
import io
import math
from collections.abc import Sequence
from typing import Any

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
from train.page import Figure, Piece, Sentence, table
from train.review.powers import Driven, missing

ROAD, LINE, OTHER, OWN, BROKEN = (90, 90, 90), (220, 220, 220), (170, 200, 230), (90, 190, 90), (220, 70, 60)
METRES, SCALE = 120, 4  # what a film shows of the road, and pixels a metre


@dataclasses.dataclass(frozen=True)
class ClosedLoop:
    """`episodes` drives of `steps` steps from seeds that no log has, the model at the wheel, beside those of an expert
    from the same seeds.

    `collision_rate` and `off_road_rate` count episodes, which these end; `time_on_road` is the share of the steps until
    then; `reward_ratio` is the sum of the rewards over the expert's, `mean_speed` in m/s; an expert is the Intelligent
    Driver Model with MOBIL, wanting 30 m/s.  With returns `asked`, every one is asked for in every episode:
    `return_correlation` is the rank correlation of what was asked and what was reached, `reached_R` the mean for R, and
    `reward_ratio` that of the highest.  Shows `film`, or not, the first.
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
            raise missing(self, data, "drives")
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
            raise missing(self, data, "drives")
        if (data.features, data.actions) != (FEATURES, 2):
            raise ValueError(f"the simulation has {FEATURES} features and 2 actions, and the data has others")
        reached = ("return_correlation", *(f"reached_{one:g}" for one in self.asked)) if self.asked else ()
        return "collision_rate", "off_road_rate", "time_on_road", "mean_speed", "reward_ratio", *reached

    def measure(self, evidence: Evidence) -> dict[str, tuple[float, float]]:
        """The metrics of all drives, without intervals."""
        plain = dataclasses.replace(self, film=False).review(evidence)
        return {name: (value, math.inf) for name, value in plain.metrics.items()}

    def review(self, evidence: Evidence) -> Findings:
        """The findings of all drives; none where what the model sees and does is not what the simulation has."""
        data = evidence.data
        if not isinstance(data, Driven):
            raise missing(self, data, "drives")
        if (data.features, data.actions) != (FEATURES, 2):
            said = f"The data has {data.features} features and {data.actions} actions, and the simulation has"
            said += f" {FEATURES} and 2."
            return Findings(pictures={"No drive with the model at the wheel": Sentence(said)})
        self.ready(data)
        expert = drive(self._highways(), None, self.steps, evidence.stopped)
        asked = np.repeat(self.asked or (0.0,), self.episodes)
        wheel = Wheel(evidence, asked, self.steps)
        highways = [highway for _ in self.asked or (0.0,) for highway in self._highways()]
        trips = drive(highways, wheel, self.steps, evidence.stopped)
        if evidence.stopped():
            return Findings()
        highest = (
            trips
            if not self.asked
            else [trip for trip, one in zip(trips, asked, strict=True) if one == max(self.asked)]
        )
        metrics = self.measured(trips) | {"reward_ratio": total(highest) / max(total(expert), 1e-9)}
        rows = [
            (name, *(f"{self.measured(some)[name]:.3g}" for some in (trips, expert))) for name in self.measured(trips)
        ]
        rows.append(("reward an episode", *(f"{total(some) / len(some):.1f}" for some in (trips, expert))))
        pictures: dict[str, Piece] = {}
        pictures[f"{self.episodes} drives from seeds that no log has"] = table(("", "model", "expert"), rows)
        if self.asked:
            reached = np.array([sum(trip.rewards) for trip in trips])
            metrics |= {"return_correlation": correlation(asked, reached)}
            metrics |= {f"reached_{one:g}": float(reached[asked == one].mean()) for one in self.asked}
            pictures["Return reached over return asked; the line is what was asked"] = scattered(asked, reached)
        if self.film:
            pictures["The model's drive above, the expert's below, from the same seed"] = film(highest[0], expert[0])
        return Findings(metrics, pictures, self.marks(expert))

    def marks(self, expert: Sequence[Trip]) -> dict[str, tuple[Baseline, ...]]:
        """What the expert reaches."""
        found = self.measured(expert) | {"reward_ratio": 1.0}
        return {name: (Baseline("expert", value, simple=False),) for name, value in found.items()}

    def _highways(self) -> list[Highway]:
        return [Highway("closed", number, [Style()]) for number in range(self.episodes)]

    def measured(self, trips: Sequence[Trip]) -> dict[str, float]:
        """What drives of a kind have in common."""
        return {
            "collision_rate": float(np.mean([trip.crashed for trip in trips])),
            "off_road_rate": float(np.mean([trip.left for trip in trips])),
            "time_on_road": float(np.mean([len(trip.rewards) - trip.ended for trip in trips]) / self.steps),
            "mean_speed": float(np.mean([np.mean(trip.speeds) for trip in trips])),
        }


class Wheel:
    """The model as what gives actions from what is seen: all drivers in one call, the same program on one device in any
    parallelism.
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
        self.known["features"][:, step], self.known["returns"][:, step, 0] = (
            seen,
            self.spec.scale_returns(self.left, np.array(step)),
        )
        batch = {name: value[:, first : first + self.context] for name, value in self.known.items()}
        positions = np.arange(first, first + self.context, dtype=np.int32)
        outputs = self.outputs(batch | {"positions": np.tile(positions, (len(seen), 1))})
        actions = np.clip(np.asarray(outputs, np.float32)[:, step - first], -1, 1)
        self.known["actions"][:, step] = actions
        self.step += 1
        return actions


def total(trips: Sequence[Trip]) -> float:
    """The sum of all rewards."""
    return float(sum(sum(trip.rewards) for trip in trips))


def correlation(asked: np.ndarray, reached: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where one of them never changes."""
    from scipy import stats

    if np.ptp(asked) == 0 or np.ptp(reached) == 0:
        return 0.0
    found: Any = stats.spearmanr(asked, reached)
    return float(found.statistic)


def scattered(asked: np.ndarray, reached: np.ndarray) -> Plot:
    """What was reached over what was asked."""
    levels = np.unique(asked).tolist()
    means = tuple((level, float(reached[asked == level].mean())) for level in levels)
    series = (
        Series("as asked", tuple((level, level) for level in levels), "dashed", None),
        Series("mean", means, colour=0),
        Series("drives", tuple(zip(asked.tolist(), reached.tolist(), strict=True)), "points", 1),
    )
    return Plot(series, "return asked", "return reached")


def film(model: Trip, expert: Trip) -> Figure:
    """Two drives at double speed, one above the other."""
    from PIL import Image

    count = max(len(model.scenes), len(expert.scenes))
    frames = []
    for step in range(0, count, 2):
        panels = [panel(trip, step) for trip in (model, expert)]
        whole = Image.new("P", (panels[0].width, 2 * panels[0].height + 8), len(PALETTE) - 1)
        for place, one in enumerate(panels):
            whole.paste(one, (0, place * (one.height + 8)))
        whole.putpalette([channel for colour in PALETTE for channel in colour])
        frames.append(whole)
    data = io.BytesIO()
    frames[0].save(data, format="GIF", save_all=True, append_images=frames[1:], duration=200, loop=0, optimize=False)
    return Figure(data.getvalue(), "gif")


PALETTE = (ROAD, LINE, OTHER, OWN, BROKEN, (255, 255, 255))


def panel(trip: Trip, step: int) -> Any:
    """The road around a driver at a step, or at its last where it has ended; its vehicle is green, and red after a
    crash.
    """
    from PIL import Image, ImageDraw

    scene = trip.scenes[min(step, len(trip.scenes) - 1)]
    over = trip.ended and step >= len(trip.scenes) - 1
    height = int(SCALE * WIDTH * LANES)
    picture = Image.new("P", (SCALE * METRES, height), 0)
    draw, begin = ImageDraw.Draw(picture), scene[0, 0] - METRES / 3
    for lane in range(1, LANES):
        first = -(begin % 10)
        for mark in np.arange(first, METRES, 10):
            draw.line([(SCALE * mark, SCALE * WIDTH * lane), (SCALE * (mark + 4), SCALE * WIDTH * lane)], fill=1)
    for place in reversed(range(CARS)):
        along, across, heading, _ = scene[place]
        turn = np.array([[np.cos(heading), -np.sin(heading)], [np.sin(heading), np.cos(heading)]])
        corners = np.array([[2.5, 1], [2.5, -1], [-2.5, -1], [-2.5, 1]]) @ turn.T + [along - begin, across + WIDTH / 2]
        draw.polygon([tuple(corner) for corner in corners * SCALE], fill=(4 if over else 3) if place == 0 else 2)
    return picture
