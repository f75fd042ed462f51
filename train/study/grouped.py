"""Trials on accelerators: seeds of one structure in one program, in the way that a pilot of a few steps found fastest.

The pilot times a step of the first structure one seed after the other, all seeds in one program, and with several
devices one seed a device.  The way and what was measured are a line of the ledger, which a continued study keeps.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax

from models.backend.platform import local_devices, platform
from train.errors import Json
from train.study.ledger import Ledger
from train.study.together import Together, Way
from train.study.trial import Outcome, Program, Trainer, Unit, describe_error, load_trainer

MOST = 8  # seeds of one program on a device
STEPS = 6  # of the pilot, of which the first compiles and is not timed
WAY, LIMIT = "way", "limit"  # kinds of lines of the ledger
MEMORY = "RESOURCE_EXHAUSTED"  # in errors of XLA
Load = Callable[[str, tuple[str, ...], tuple[str, ...]], Trainer]
Structure = tuple[str, tuple[str, ...], tuple[str, ...]]  # config, overrides and files of a trial


def list_ways(seeds: int, devices: int) -> list[Way]:
    """Lists the ways that a pilot times for so many seeds of a structure."""
    ways = [Way()]
    if seeds > 1:
        ways.append(Way(1, min(seeds, MOST)))
        if devices > 1:
            used = min(devices, seeds)
            each = min(-(-seeds // used), MOST)
            ways += [Way(used, used), Way(used, used * each)]
    return list(dict.fromkeys(ways))


def time_step(trainer: Trainer, program: Program, seeds: Sequence[int], steps: int = STEPS) -> float:
    """Times a step of a program, in seconds for each seed."""
    seeded = [trainer.seed(seed) for seed in seeds]
    state = program.begin(seeded)
    spent, since = 0.0, 0.0
    for step in range(steps):
        batches = [each.batches[step] for each in seeded]
        since = time.perf_counter()
        state = jax.block_until_ready(program.step(state, batches))
        spent += (time.perf_counter() - since) * (step > 0)
    return spent / (steps - 1) / len(seeds)


class Grouped:
    """Makes trials in this process, which holds all accelerators: another process could not have them.

    Trials that differ by their seed alone are one program.  If it does not fit into memory it is halved, and if it
    cannot be computed for another reason its trials are made one after the other; `say` gets a sentence about either.
    """

    def __init__(self, say: Callable[[str], None] = lambda _: None, load: Load = load_trainer) -> None:
        self.say, self.load = say, load
        self.devices = len(local_devices())
        self.ledger: Ledger | None = None
        self.way: Way | None = None
        self.limits: dict[Structure, int] = {}  # seeds of one program, of structures for which the way's are too many
        self.programs: dict[tuple[Structure, int, int], Together] = {}

    def count_seeds(self, structures: int) -> int:
        """Counts the seeds of each of so many structures that are worth a program."""
        del structures
        return self.devices if self.way is None else self.way.seeds

    def choose(self, ledger: Ledger, units: Sequence[Unit]) -> None:
        """Chooses the way of a study: that of its ledger, otherwise by a pilot if there is a group among `units`."""
        if ledger is not self.ledger:
            self.ledger, self.way, self.limits = ledger, None, {}
            for line in ledger.lines:
                if line["kind"] == WAY and line["devices"] <= self.devices:
                    self.way = Way(line["devices"], line["seeds"])
                elif line["kind"] == LIMIT:
                    self.limits[units[0].config, tuple(line["overrides"]), units[0].files] = line["seeds"]
        if self.way is not None:
            return
        group = max(_group(units), key=len, default=[])
        if len(group) > 1:
            measured = self._measure(group)
            seconds = {way: value for way, value in measured.items() if isinstance(value, float)}
            self.way = min(seconds, key=seconds.__getitem__, default=Way())
            ledger.add(self._record(self.way, measured))
            self.say(f"seeds are trained {self.way}")

    def _record(self, way: Way, measured: Mapping[Way, float | str]) -> dict[str, Json]:
        pilot: list[Json] = [
            {"devices": each.devices, "seeds": each.seeds}
            | ({"error": value} if isinstance(value, str) else {"seconds": value})
            for each, value in measured.items()
        ]
        return {
            "kind": WAY,
            "devices": way.devices,
            "seeds": way.seeds,
            "platform": platform(),
            "device": jax.local_devices()[0].device_kind,
            "pilot": pilot,
        }

    def _measure(self, group: Sequence[Unit]) -> dict[Way, float | str]:
        """Seconds of a step for each seed by way, or the error of a way that cannot be taken."""
        structure, measured = _structure(group[0]), dict[Way, float | str]()
        for way in list_ways(len(group), self.devices):
            seeds = [unit.seed for unit in itertools.islice(itertools.cycle(group), way.seeds)]
            try:
                trainer = self.load(*structure)
                program = self._compile(trainer, structure, way.seeds, way.devices)
                measured[way] = time_step(trainer, program, seeds)
            except Exception as error:  # of memory, of a kernel without a batching rule, or of a user's class
                measured[way] = describe_error(error)
        return measured

    def _compile(self, trainer: Trainer, structure: Structure, seeds: int, devices: int) -> Program:
        """A program of a structure, of which the last one is kept with what is compiled."""
        if seeds == 1:
            return trainer.alone
        key = structure, seeds, devices
        if key not in self.programs:
            self.programs = {key: Together(trainer.prepared, seeds, devices)}
        return self.programs[key]

    def __call__(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Outcome | str]]:
        """Makes trials, group by group."""
        for group in _group(units):
            yield from self._make(group)

    def _make(self, group: Sequence[Unit]) -> Iterator[tuple[Unit, Outcome | str]]:
        way = self.way or Way()
        while group:
            most = self.limits.get(_structure(group[0]), way.seeds)
            part, group = group[:most], group[most:]
            if len(part) == 1:
                yield part[0], self._make_alone(part[0])
                continue
            outcomes = self._try(part, min(way.devices, len(part)))
            if isinstance(outcomes, str):
                self._limit(part, outcomes)
                group = [*part, *group]
            else:
                yield from zip(part, outcomes, strict=True)

    def _make_alone(self, unit: Unit) -> Outcome | str:
        try:
            return self.load(*_structure(unit)).run(unit.seed, unit.part)
        except Exception as error:  # whatever a user's class raises; it is one line of the ledger
            return describe_error(error)

    def _limit(self, part: Sequence[Unit], error: str) -> None:
        """Halves the program of a structure that was out of memory; after another error its seeds are made alone."""
        unit, most = part[0], len(part) // 2 if MEMORY in error else 1
        self.limits[_structure(unit)] = most
        if self.ledger is not None:
            self.ledger.add(
                {"kind": LIMIT, "variant": unit.variant, "overrides": list(unit.overrides), "seeds": most}
                | {"error": error}
            )
        now = f"{most} in one program" if most > 1 else "one after the other"
        why = "do not fit into memory" if MEMORY in error else f"cannot be computed ({error})"
        self.say(f"{unit.variant}: {len(part)} seeds in one program {why}; they are trained {now}")

    def _try(self, part: Sequence[Unit], devices: int) -> list[Outcome] | str:
        """Outcomes of trials in one program, or what went wrong; arrays of a program that failed are let go."""
        structure = _structure(part[0])
        try:
            trainer = self.load(*structure)
            program = self._compile(trainer, structure, len(part), devices)
            return trainer.train([unit.seed for unit in part], part[0].part, program)
        except Exception as error:  # whatever the program raises; each trial alone says it again
            self.programs.clear()
            return describe_error(error)


def _structure(unit: Unit) -> Structure:
    return unit.config, unit.overrides, unit.files


def _group(units: Sequence[Unit]) -> list[list[Unit]]:
    """Trials that differ by their seeds alone, in the order of the first of each group."""
    groups: dict[object, list[Unit]] = {}
    for unit in units:
        groups.setdefault((unit.variant, unit.overrides, unit.part), []).append(unit)
    return list(groups.values())
