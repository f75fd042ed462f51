"""Driving on a simulated highway: observations, experts of several styles, and episodes that a model drives."""

import contextlib
import dataclasses
import functools
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

LANES, WIDTH = 4, 4.0  # lanes of a road, and their width in metres
CARS, SPACE = 20, 2.0  # vehicles on the road, and their spacing (1 is dense)
SLOW, STARTS = (16.0, 24.0), (20.0, 30.0)  # initial speeds of other vehicles, and of drivers
SECONDS, STEPS = 0.2, 200  # duration of a step, steps of an episode
RANGES = np.array([5.0, 0.4])  # an action of 1: metres per second squared, radians of the front wheels
# probability that the noise of acceleration and steering is redrawn at a step: noise that lasts changes the course
ANEW = np.array([0.1, 0.3])
FEATURES = 31
PARTS = ("train", "test", "closed")  # the index of a part seeds its simulations


@dataclasses.dataclass(frozen=True)
class Style:
    """An expert's driving style: desired speed, time headway in seconds, minimum gain in acceleration of a lane change.

    `noise` is the standard deviation of the noise that is added to its actions (of 1) when they are executed; the
    intended actions are logged.
    """

    speed: float = 30.0
    headway: float = 1.5
    gain: float = 0.2
    noise: tuple[float, float] = (0.0, 0.0)


def observe(vehicles: np.ndarray, drivers: Sequence[int]) -> np.ndarray:
    """Observes vehicles (n, 4) from some of them, the drivers (m,): features (m, 31) of about -1 to 1.

    Vehicles have metres along, metres across, heading and speed.  Features are the driver's speed (25 m/s is 0, 30 is
    1), heading (0.2 rad is 1), offset in the lane (its edge is 1), lanes to the left and to the right (3 are 1), and
    whether there is one; then for the nearest vehicle ahead and behind, in the lane to the left, the driver's and the
    lane to the right: nearness 1 / (1 + d / 20 m), distance (100 m and more, or no vehicle, is 1), relative speed (10
    m/s is 1), and heading.
    """
    along, across, heading, speed = vehicles.T
    chosen = np.asarray(drivers)
    lane = find_lanes(across)[chosen]
    left, right = lane, LANES - 1 - lane
    offset = across[chosen] - WIDTH * lane
    seen = [
        (speed[chosen] - 25) / 5,
        heading[chosen] * 5,
        offset / (WIDTH / 2),
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


def find_lanes(across: np.ndarray) -> np.ndarray:
    """Finds the nearest lanes, numbered from the left."""
    return np.clip(np.rint(across / WIDTH), 0, LANES - 1).astype(int)


def compute_reward(vehicle: np.ndarray, crashed: bool) -> float:
    """Computes the reward of highway-v0, from 0 to 1.

    0.4 for a speed from 20 to 30 m/s, 0.1 for lanes to the right, -1 for a crash, scaled; 0 off the road.
    """
    _, across, heading, speed = vehicle
    fast = np.clip((speed * np.cos(heading) - 20) / 10, 0, 1)
    total = 0.4 * fast + 0.1 * find_lanes(across) / (LANES - 1) - float(crashed)
    return float((total + 1) / 1.5 * is_on_road(vehicle))


def is_on_road(vehicle: np.ndarray) -> bool:
    """Tells if the centre of a vehicle is in a lane."""
    return bool(-WIDTH / 2 <= vehicle[1] <= WIDTH * (LANES - 0.5))


@functools.cache
def load_simulator() -> Any:
    """Loads highway-env: a straight road, the network, the expert vehicle, a driver.  Raises LookupError if absent."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pygame prints a greeting
            from highway_env.road.road import LaneIndex, Road, RoadNetwork
            from highway_env.vehicle.behavior import IDMVehicle
            from highway_env.vehicle.kinematics import Vehicle
    except ImportError:
        raise LookupError(
            "Driving is simulated with the package highway-env, which is absent; pip install 'morphax[drive]'."
        ) from None

    class Straight(Road):
        """A road of straight lanes with a fast search for neighbours, which takes half of the time."""

        positions: Sequence[tuple[float, float, Vehicle]] = ()

        def act(self) -> None:
            self.positions = [(float(other.position[0]), float(other.position[1]), other) for other in self.vehicles]
            super().act()

        def neighbour_vehicles(
            self, vehicle: Vehicle, lane_index: LaneIndex | None = None
        ) -> tuple[Vehicle | None, Vehicle | None]:
            """The vehicles ahead and behind in a lane, as the package finds them."""
            centre = WIDTH * (lane_index or vehicle.lane_index)[2]
            here = vehicle.position[0]
            ahead = behind = None
            nearest, last = np.inf, -np.inf
            for along, across, other in self.positions:
                if other is vehicle or abs(across - centre) > WIDTH / 2 + 1:
                    continue
                if here <= along <= nearest:
                    ahead, nearest = other, along
                elif last < along < here:
                    behind, last = other, along
            return ahead, behind

    class Driver(IDMVehicle):
        """An expert (Intelligent Driver Model along the lane, MOBIL across), unless `command` is an action."""

        style, command, push = Style(), None, np.zeros(2)
        meant = np.zeros(2)
        chance: np.random.Generator

        def act(self, action: object = None) -> None:
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
    """A driver's observations, intended actions and rewards, step by step until the end, a crash, or leaving the road.

    `scenes` has every vehicle, (20, 4), before each step, `speeds` the driver's own speed after it.
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
        """True after a crash, or after the driver left the road."""
        return self.crashed or self.left


class Highway:
    """Four lanes with 20 vehicles, some of them drivers with a style each; seeded by the part and a number.

    The first driver starts behind all others.  `trips` are the drivers' trips so far.
    """

    def __init__(self, part: str, number: int, styles: Sequence[Style]) -> None:
        road, network, traffic, driver = load_simulator()
        seed = PARTS.index(part), number
        chance = np.random.default_rng(seed)
        self.road = road(network.straight_road_network(LANES, speed_limit=30), np_random=chance)
        self.indices = [index * CARS // len(styles) for index in range(len(styles))]
        for index in range(CARS):
            speed = chance.uniform(*(STARTS if index in self.indices else SLOW))
            vehicle = (driver if index in self.indices else traffic).create_random(self.road, speed, spacing=SPACE)
            vehicle.randomize_behavior()
            # collisions among other vehicles are slow to check and not needed
            vehicle.check_collisions = index in self.indices
            self.road.vehicles.append(vehicle)
        self.drivers = [self.road.vehicles[index] for index in self.indices]
        self.trips = [Trip() for _ in styles]
        for index, vehicle, style in zip(self.indices, self.drivers, styles, strict=True):
            vehicle.style = style
            vehicle.target_speed = style.speed
            vehicle.TIME_WANTED = style.headway
            vehicle.LANE_CHANGE_MIN_ACC_GAIN = style.gain
            vehicle.chance = np.random.default_rng((*seed, index))
        self.scene = np.zeros((0, 4))
        self.seen = np.zeros((0, FEATURES), np.float32)

    @property
    def running(self) -> bool:
        """True until the trips of all drivers have ended."""
        return not all(trip.ended for trip in self.trips)

    def look(self) -> np.ndarray:
        """Observes the drivers' surroundings, (m, 31)."""
        self.scene = np.array([(*vehicle.position, vehicle.heading, vehicle.speed) for vehicle in self.road.vehicles])
        self.seen = observe(self.scene, self.indices)
        return self.seen

    def step(self, commands: np.ndarray | None) -> None:
        """Simulates a fifth of a second after `look`: drivers execute commands (m, 2), or their own actions if None."""
        for index, vehicle in enumerate(self.drivers):
            vehicle.command = None if commands is None else np.asarray(commands[index], np.float64)
        self.road.act()
        self.road.step(SECONDS)
        for trip, vehicle, seen in zip(self.trips, self.drivers, self.seen, strict=True):
            if trip.ended:
                continue
            state = np.array([*vehicle.position, vehicle.heading, vehicle.speed])
            trip.features.append(seen)
            trip.actions.append(vehicle.meant.astype(np.float32))
            trip.rewards.append(compute_reward(state, vehicle.crashed))
            trip.speeds.append(float(vehicle.speed))
            trip.scenes.append(self.scene)
            trip.crashed = bool(vehicle.crashed)
            trip.left = not is_on_road(state)


def drive(
    highways: Sequence[Highway],
    wheel: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    steps: int = STEPS,
    stop: Callable[[], bool] = lambda: False,
) -> list[Trip]:
    """Drives all highways and returns the trips of all their drivers, in order; without `wheel` experts drive.

    `wheel(features, rewards)` computes the actions (n, 2) of the n drivers from their observations (n, 31) and the
    rewards of the last step (n,).  It is also called for drivers whose trips have ended, which record nothing.
    """
    trips = [trip for highway in highways for trip in highway.trips]
    for step in range(steps):
        if stop() or not any(highway.running for highway in highways):
            break
        seen = np.concatenate([highway.look() for highway in highways])
        rewards = np.array(
            [trip.rewards[-1] if len(trip.rewards) == step and step else 0.0 for trip in trips], np.float32
        )
        actions = None if wheel is None else wheel(seen, rewards)
        first = 0
        for highway in highways:
            last = first + len(highway.indices)
            if highway.running:
                highway.step(None if actions is None else actions[first:last])
            first = last
    return trips
