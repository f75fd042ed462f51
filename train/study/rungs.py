"""Rungs of a search: a probe if there is one, then a growing number of steps, of which each keeps the best share."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

from train.config import load_config
from train.engine.prepared import prepare
from train.engine.requirements import settle
from train.errors import InputError
from train.study.probes import FIXED, PROBES
from train.variants import Search

TASK = ("data", "objective", "evaluation", "steps", "epochs")  # settings that a probe has of its own


@dataclasses.dataclass(frozen=True)
class Rung:
    """A rung: its name, its steps, and the overrides that make a trial of it.

    A probe's replace those that the structure has of the same kind.
    """

    name: str
    steps: int
    extra: tuple[str, ...] = ()
    is_probe: bool = False

    def extend(self, overrides: Sequence[str]) -> tuple[str, ...]:
        """The overrides of a trial on this rung."""
        kept = [text for text in overrides if not self.is_probe or text.partition("=")[0].split(".")[0] not in TASK]
        return (*kept, *self.extra)


def plan_rungs(search: Search) -> list[Rung]:
    """Plans the rungs of a search, the last one with the steps of the config.

    Raises InputError for a probe of another name, and for shares so small that two rungs have equal steps.
    """
    experiment, _ = load_config(search.config, list(search.overrides), search.files)
    data = experiment.data.open()
    steps = prepare(settle(experiment, data)[0], data).steps
    fixed = ("epochs=none",) if experiment.epochs is not None else ()
    rungs: list[Rung] = []
    if search.probe is not None:
        if search.probe not in PROBES:
            raise InputError(f"There is no probe {search.probe!r}; there are {', '.join(PROBES)}.")
        extra = (f"data={PROBES[search.probe].data}", *FIXED, f"steps={search.probe_steps}")
        rungs.append(Rung(search.probe, search.probe_steps, extra, is_probe=True))
    counts = [max(1, round(share * steps)) for share in search.rungs[:-1]]
    if sorted({*counts, steps}) != [*counts, steps]:
        raise InputError(
            f"The config trains for {steps} steps, and rungs of {', '.join(map(str, [*counts, steps]))} steps are not"
            " rising; give fewer --rungs."
        )
    rungs += [Rung(f"{count} steps", count, (*fixed, f"steps={count}")) for count in counts]
    return [*rungs, Rung(f"{steps} steps", steps)]


def count_rungs(candidates: int, rungs: int, keep: float) -> list[int]:
    """Counts the candidates on each rung: the share `keep` of those of the rung before, rounded up, at least one."""
    counts = [candidates]
    while len(counts) < rungs:
        counts.append(max(1, math.ceil(round(counts[-1] * keep, 9))))
    return counts


def halve(losses: Mapping[str, tuple[float, ...]], count: int) -> list[str]:
    """Names of the `count` lowest losses of the last rung, which are finite; of all on the first one."""
    tried = {name: values[-1] for name, values in losses.items() if values}
    if not tried:
        return list(losses)[:count]
    finite = [name for name, loss in tried.items() if math.isfinite(loss)]
    return sorted(finite, key=tried.__getitem__)[:count]


def list_generations(search: Search) -> Iterator[int]:
    """Lists the numbers of candidates of the generations."""
    left = search.candidates
    while left > 0:
        yield min(search.population, left)
        left -= search.population


def count_steps(search: Search, rungs: Sequence[Rung]) -> int:
    """Counts the steps of training of a whole search, the baseline's too."""
    counts = [count_rungs(size, len(rungs), search.keep) for size in list_generations(search)]
    counts.append([1] * len(rungs))
    return search.seeds * sum(
        count * rung.steps for generation in counts for count, rung in zip(generation, rungs, strict=True)
    )
