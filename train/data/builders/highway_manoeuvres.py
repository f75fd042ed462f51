"""Clips of vehicles on a simulated highway, labelled by manoeuvre, as a TFDS builder."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.split_builder import KeyExample, SplitGenerator

MANOEUVRES = ("keep", "left", "right", "accelerate", "brake")
FRAMES, ROWS, COLUMNS = 8, 32, 64
TICK, EVERY, TICKS = 0.1, 4, 150  # seconds of a simulation step, steps between frames, steps of a simulation
SPAN = EVERY * (FRAMES - 1)
LANES, LANE, VEHICLES = 4, 4.0, 12
DETAIL, SCALE = 2, 1.5  # supersampling, pixels of a frame per metre
MOST = 4  # clips of one manoeuvre from one simulation
POSITION, HEADING, SPEED, CRASHED = slice(0, 2), 2, 3, 4  # the columns of a log


@dataclasses.dataclass(kw_only=True)
class Manoeuvres(tfds.core.BuilderConfig):
    """The number of clips of each manoeuvre in the training and test splits."""

    train: int = 400
    test: int = 80


class HighwayManoeuvres(tfds.core.GeneratorBasedBuilder):
    """`video` (8, 32, 64, 1), a highway from above, and `label`, a vehicle's manoeuvre: 2,000 / 400, or 50 / 25.

    Clips of 2.8 seconds; the labelled vehicle is black.  The traffic is highway-env's: vehicles follow by the
    Intelligent Driver Model, change lanes by MOBIL, and at times change their desired speed.  `left` and `right` end
    more than 3 m to the side (a lane has 4), the others keep their lane; `accelerate` and `brake` end more than 3 m/s
    faster or slower, `keep` stays within 0.7 m/s; clips in between are left out.  Classes are balanced.  The camera
    starts within a metre of the vehicle and moves at the vehicle's initial speed.  Training and test clips come from
    different simulations.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [Manoeuvres(name="whole"), Manoeuvres(name="few", train=10, test=5)]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "video": tfds.features.Tensor(shape=(FRAMES, ROWS, COLUMNS, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(names=list(MANOEUVRES)),
                }
            ),
            license="MIT, Farama Foundation",
            homepage="https://highway-env.farama.org",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, SplitGenerator]:
        del dl_manager  # the clips are computed
        sizes = self.builder_config
        assert isinstance(sizes, Manoeuvres)
        return {"train": self._generate_examples(sizes.train, 0), "test": self._generate_examples(sizes.test, 1)}

    def _generate_examples(self, each: int, part: int) -> Iterator[KeyExample]:
        wanted, seed = dict.fromkeys(range(len(MANOEUVRES)), each), 0
        while any(wanted.values()):
            chance = np.random.default_rng((seed, part))
            road, log = simulate(chance)
            stretches = find_manoeuvres(log)
            for label in wanted:
                matches = [(start, vehicle) for start, vehicle, manoeuvre in stretches if manoeuvre == label]
                for start, vehicle in chance.permutation(matches)[: min(MOST, wanted[label])]:
                    wanted[label] -= 1
                    yield (
                        f"{seed:05}-{vehicle:02}-{start:03}",
                        {"video": render(road, log, start, vehicle, chance), "label": label},
                    )
            seed += 1


def simulate(chance: np.random.Generator) -> tuple[Any, np.ndarray]:
    """Simulates a road; returns it and the log of its vehicles, (steps, vehicles, 5): x, y, heading, speed, crashed."""
    try:
        from highway_env.road.road import Road, RoadNetwork
        from highway_env.vehicle.behavior import IDMVehicle
    except ImportError:
        raise LookupError(
            "highway_manoeuvres is simulated by highway-env; run `pip install 'morphax[drive]'`."
        ) from None
    network = RoadNetwork.straight_road_network(LANES, length=10_000, speed_limit=60)  # above all desired speeds
    road: Any = Road(network, np_random=np.random.RandomState(chance.integers(2**31)))
    for lane in range(LANES):
        along = chance.uniform(100, 120)  # the road begins at 0
        for _ in range(VEHICLES // LANES):
            vehicle = IDMVehicle(
                road, [along, lane * LANE], speed=chance.uniform(15, 30), target_speed=chance.uniform(15, 35)
            )
            vehicle.randomize_behavior()
            road.vehicles.append(vehicle)
            along += chance.uniform(20, 45)
    log = []
    for _ in range(TICKS):
        log.append([(*vehicle.position, vehicle.heading, vehicle.speed, vehicle.crashed) for vehicle in road.vehicles])
        for vehicle in road.vehicles:
            if chance.random() < 0.03:
                vehicle.target_speed = chance.uniform(10, 38)
        road.act()
        road.step(TICK)
    return road, np.array(log, np.float64)


def find_manoeuvres(log: np.ndarray) -> list[tuple[int, int, int]]:
    """Finds the stretches of a log in which a vehicle does a manoeuvre: first step, vehicle, manoeuvre."""
    stretches = []
    for start in range(0, len(log) - SPAN, SPAN // 3):
        part = log[start : start + SPAN + 1]
        for vehicle in range(log.shape[1]):
            aside, faster = (part[:, vehicle, column] - part[0, vehicle, column] for column in (1, SPEED))
            if part[:, vehicle, CRASHED].any():
                continue
            if abs(aside[-1]) > 3:
                stretches.append((start, vehicle, 1 if aside[-1] < 0 else 2))
            elif np.ptp(aside) < 0.6 and abs(faster[-1]) > 3:
                stretches.append((start, vehicle, 3 if faster[-1] > 0 else 4))
            elif np.ptp(aside) < 0.6 and np.abs(faster).max() < 0.7:
                stretches.append((start, vehicle, 0))
    return stretches


def render(road: Any, log: np.ndarray, start: int, vehicle: int, chance: np.random.Generator) -> np.ndarray:
    """Renders a stretch of a log, (frames, rows, columns, 1), from a camera that starts near the vehicle."""
    import pygame
    from highway_env.road.graphics import RoadGraphics, WorldSurface

    size = (COLUMNS * DETAIL, ROWS * DETAIL)
    canvas: Any = pygame.Surface(size)
    surface = WorldSurface(size, 0, canvas)
    surface.scaling = SCALE * DETAIL
    camera = log[start, vehicle, POSITION] + chance.uniform(-1, 1, 2)
    frames = []
    for step in range(start, start + SPAN + 1, EVERY):
        for number, (other, row) in enumerate(zip(road.vehicles, log[step], strict=True)):
            other.position, other.heading = row[POSITION], row[HEADING]
            other.color = (0, 0, 0) if number == vehicle else None
        surface.move_display_window_to(camera + [log[start, vehicle, SPEED] * TICK * (step - start), 0])
        RoadGraphics.display(road, surface)
        RoadGraphics.display_traffic(road, surface, offscreen=True)
        pixels = pygame.surfarray.array3d(surface).swapaxes(0, 1) @ np.array([0.299, 0.587, 0.114])
        frames.append(pixels.reshape(ROWS, DETAIL, COLUMNS, DETAIL).mean((1, 3)))
    clip = np.stack(frames).round().astype(np.uint8)[..., None]
    assert clip.std() > 0, "the frames are empty; leave SDL_VIDEODRIVER unset"
    return clip
