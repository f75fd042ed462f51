"""Driving on a highway: what a vehicle sees, experts that drive as it is told or as they like, and episodes with a
model at the wheel.
"""

import contextlib
import dataclasses
import functools
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# the lanes and their metres; the vehicles on the road, and how far apart (1 is dense)
LANES, WIDTH, CARS, SPACE = 4, 4.0, 20, 2.0
SLOW, STARTS = (16.0, 24.0), (20.0, 30.0)  # the speeds of the others, and those at which drivers begin
SECONDS, STEPS = 0.2, 200  # a step, and an episode
RANGES = np.array([5.0, 0.4])  # what an action of 1 is: metres a second squared, and radians of the front wheels
# how often the noise of acceleration and steering is drawn anew: what is held leads somewhere
ANEW = np.array([0.1, 0.3])
FEATURES = 31
PARTS = ("train", "test", "closed")  # each has seeds of its own


@dataclasses.dataclass(frozen=True)
class Style:
    """How an expert drives: the speed it wants, the seconds it keeps to the vehicle ahead, the acceleration a change of
    lane has to gain.

    `noise` is the spread of what is added to its actions (of 1) before they are carried out; what is logged is what it
    meant to do.
    """

    speed: float = 30.0
    headway: float = 1.5
    gain: float = 0.2
    noise: tuple[float, float] = (0.0, 0.0)


def features(vehicles: np.ndarray, own: Sequence[int]) -> np.ndarray:
    """What some of the vehicles see, (m, 31) numbers of about -1 to 1; vehicles (n, 4): metres along, metres across,
    heading, speed.

    Own speed (25 m/s is 0, 30 is 1), heading (0.2 rad is 1), place in the lane (its edge is 1), lanes to the left and
    to the right (3 are 1), and whether there is one; then of the nearest vehicle ahead and behind, in the lane to the
    left, the own and that to the right: nearness 1 / (1 + d / 20 m), distance (100 m and more, or nobody, is 1), speed
    less the own (10 m/s is 1), and heading.
    """
    along, across, heading, speed = vehicles.T
    chosen = np.asarray(own)
    lane = lanes(across)[chosen]
    left, right = lane, LANES - 1 - lane
    middle = across[chosen] - WIDTH * lane
    seen = [
        (speed[chosen] - 25) / 5,
        heading[chosen] * 5,
        middle / (WIDTH / 2),
        left / 3,
        right / 3,
        np.minimum(left, 1),
        np.minimum(right, 1),
    ]
    distance = along[None] - along[chosen][:, None]
    others = np.arange(len(vehicles))[None] != chosen[:, None]
    for side in (-1, 0, 1):
        there = others & (np.abs(across[None] - WIDTH * (lane[:, None] + side)) <= WIDTH / 2 + 1)
        there &= ((lane + side >= 0) & (lane + side < LANES))[:, None]
        for ahead in (True, False):
            apart = np.where(there & ((distance >= 0) == ahead), np.abs(distance), np.inf)
            nearest = apart.argmin(1)
            gap = apart[np.arange(len(chosen)), nearest]
            some = np.isfinite(gap)
            seen += [np.where(some, 1 / (1 + gap / 20), 0), np.minimum(gap / 100, 1)]
            seen += [
                np.where(some, np.clip((speed[nearest] - speed[chosen]) / 10, -2, 2), 0),
                np.where(some, heading[nearest] * 5, 0),
            ]
    return np.stack(seen, -1).astype(np.float32)


def lanes(across: np.ndarray) -> np.ndarray:
    """The lane that is nearest, counted from the left."""
    return np.clip(np.rint(across / WIDTH), 0, LANES - 1).astype(int)


def reward(vehicle: np.ndarray, crashed: bool) -> float:
    """That of highway-v0, from 0 to 1: 0.4 for a speed from 20 to 30 m/s, 0.1 for lanes to the right, -1 for a crash; 0
    beside the road.
    """
    _, across, heading, speed = vehicle
    fast = np.clip((speed * np.cos(heading) - 20) / 10, 0, 1)
    total = 0.4 * fast + 0.1 * lanes(across) / (LANES - 1) - float(crashed)
    return float((total + 1) / 1.5 * on_road(vehicle))


def on_road(vehicle: np.ndarray) -> bool:
    """Whether the middle of a vehicle is on some lane."""
    return bool(-WIDTH / 2 <= vehicle[1] <= WIDTH * (LANES - 0.5))


@functools.cache
def simulator() -> Any:
    """The road of highway-env, its network, its expert, and our driver of it.  Raises LookupError where the package is
    absent.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # a game library that it imports greets
            from highway_env.road.road import Road, RoadNetwork
            from highway_env.vehicle.behavior import IDMVehicle
    except ImportError:
        raise LookupError(
            "Driving is simulated with the package highway-env, which is absent; pip install 'morphax[drive]'."
        ) from None

    class Straight(Road):
        """A road whose lanes are straight, which makes neighbours quick to find; half of the time goes there."""

        places: Any = ()

        def act(self) -> None:
            self.places = [(float(one.position[0]), float(one.position[1]), one) for one in self.vehicles]
            super().act()

        def neighbour_vehicles(self, vehicle: Any, lane_index: Any = None) -> tuple[Any, Any]:
            """Who is ahead and who behind in a lane, as the package finds them."""
            middle, own = WIDTH * (lane_index or vehicle.lane_index)[2], vehicle.position[0]
            ahead, behind, nearest, last = None, None, np.inf, -np.inf
            for along, across, other in self.places:
                if other is vehicle or abs(across - middle) > WIDTH / 2 + 1:
                    continue
                if own <= along <= nearest:
                    ahead, nearest = other, along
                elif last < along < own:
                    behind, last = other, along
            return ahead, behind

    class Driver(IDMVehicle):
        """An expert: the Intelligent Driver Model along the lane, MOBIL across; or whoever gives it `command`, an
        action of -1 to 1.
        """

        style, command, push = Style(), None, np.zeros(2)
        meant = np.zeros(2)
        chance: Any = None

        def act(self, action: Any = None) -> None:
            if self.crashed:
                return
            if self.command is None:
                super().act()
                self.meant = np.clip(np.array([self.action["acceleration"], self.action["steering"]]) / RANGES, -1, 1)
                anew = self.chance.random(2) < ANEW
                self.push = np.where(anew, self.chance.normal(0, self.style.noise), self.push)
            else:
                self.target_lane_index, self.meant = self.lane_index, np.clip(self.command, -1, 1)
            acceleration, steering = np.clip(self.meant + self.push, -1, 1) * RANGES
            self.action = {"acceleration": float(acceleration), "steering": float(steering)}

    return Straight, RoadNetwork, IDMVehicle, Driver


@dataclasses.dataclass
class Trip:
    """What a driver saw, meant to do and was rewarded for, step by step until the end, a crash, or the edge of the
    road.

    `scenes` has every vehicle, (20, 4), before each step, and `speeds` the driver's own after it.
    """

    features: list[np.ndarray] = dataclasses.field(default_factory=list)
    actions: list[np.ndarray] = dataclasses.field(default_factory=list)
    rewards: list[float] = dataclasses.field(default_factory=list)
    speeds: list[float] = dataclasses.field(default_factory=list)
    scenes: list[np.ndarray] = dataclasses.field(default_factory=list)
    crashed: bool = False
    left: bool = False

    @property
    def ended(self) -> bool:
        """Whether a crash or the edge of the road has ended it."""
        return self.crashed or self.left


class Highway:
    """Four lanes with 20 vehicles, some of them drivers of a style each, the first behind all others; the part and the
    number decide it.

    `trips` are what the drivers have done so far.
    """

    def __init__(self, part: str, number: int, styles: Sequence[Style]) -> None:
        road, network, traffic, driver = simulator()
        seed = PARTS.index(part), number
        chance = np.random.default_rng(seed)
        self.road = road(network.straight_road_network(LANES, speed_limit=30), np_random=chance)
        self.own = [index * CARS // len(styles) for index in range(len(styles))]
        for index in range(CARS):
            speed = chance.uniform(*(STARTS if index in self.own else SLOW))
            vehicle = (driver if index in self.own else traffic).create_random(self.road, speed, spacing=SPACE)
            vehicle.randomize_behavior()
            # those of the others with each other take time and are not looked at
            vehicle.check_collisions = index in self.own
            self.road.vehicles.append(vehicle)
        self.drivers = [self.road.vehicles[place] for place in self.own]
        self.trips = [Trip() for _ in styles]
        for place, one, style in zip(self.own, self.drivers, styles, strict=True):
            one.style, one.target_speed = style, style.speed
            one.TIME_WANTED, one.LANE_CHANGE_MIN_ACC_GAIN = style.headway, style.gain
            one.chance = np.random.default_rng((*seed, place))
        self.scene, self.seen = np.zeros((0, 4)), np.zeros((0, FEATURES), np.float32)

    @property
    def running(self) -> bool:
        """Whether some driver's trip has not ended."""
        return not all(trip.ended for trip in self.trips)

    def look(self) -> np.ndarray:
        """What the drivers see now, (m, 31)."""
        self.scene = np.array([(*vehicle.position, vehicle.heading, vehicle.speed) for vehicle in self.road.vehicles])
        self.seen = features(self.scene, self.own)
        return self.seen

    def step(self, commands: np.ndarray | None) -> None:
        """A fifth of a second goes by after a look: drivers do as they are told (m, 2), or as they like."""
        for place, one in enumerate(self.drivers):
            one.command = None if commands is None else np.asarray(commands[place], np.float64)
        self.road.act()
        self.road.step(SECONDS)
        for trip, one, seen in zip(self.trips, self.drivers, self.seen, strict=True):
            if trip.ended:
                continue
            state = np.array([*one.position, one.heading, one.speed])
            trip.features.append(seen)
            trip.actions.append(one.meant.astype(np.float32))
            trip.rewards.append(reward(state, one.crashed))
            trip.speeds.append(float(one.speed))
            trip.scenes.append(self.scene)
            trip.crashed, trip.left = bool(one.crashed), not on_road(state)


def drive(
    highways: Sequence[Highway],
    wheel: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    steps: int = STEPS,
    stop: Callable[[], bool] = lambda: False,
) -> list[Trip]:
    """The trips of all drivers of the highways, one after the other; experts drive themselves.

    `wheel(features, rewards)` gives the actions (n, 2) of the n drivers from what they see (n, 31) and what the last
    step gave (n,); a driver whose trip has ended is asked on, and nothing of it is recorded.
    """
    trips = [trip for highway in highways for trip in highway.trips]
    for step in range(steps):
        if stop() or not any(highway.running for highway in highways):
            break
        seen = np.concatenate([highway.look() for highway in highways])
        given = np.array(
            [trip.rewards[-1] if len(trip.rewards) == step and step else 0.0 for trip in trips], np.float32
        )
        actions, first = None if wheel is None else wheel(seen, given), 0
        for highway in highways:
            last = first + len(highway.own)
            if highway.running:
                highway.step(None if actions is None else actions[first:last])
            first = last
    return trips
