"""The smallest change that lets a training step fit, found by compiling what might."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from models import LogitsHead, MultiTokenHead, Stack
from models.depth.remat import keeps_less
from models.structure import part
from train.contracts import InChunks
from train.errors import InputError
from train.experiment import Experiment
from train.parallel import Jit, Mesh, Pmap
from train.plan.step import Plan, planned
from train.plan.topology import topology
from train.spec.overrides import override
from train.spec.parts import project

STACKS = ("model.stack", "model.encoder", "model.decoder")
HALVINGS = 3  # of what lies between a batch that fits and one that does not


@dataclasses.dataclass(frozen=True)
class Advice:
    """Changes as a command line has them, and the plan of the step with them."""

    changes: tuple[str, ...]
    plan: Plan


def advised(experiment: Experiment, where: str, say: Callable[[str], Any] = lambda text: None) -> Advice | None:
    """The first rung of a ladder on which the step fits, then less what it fits without; None if it fits on none.

    The ladder begins with what changes no number: logits in chunks, parameters spread over the chips, what is computed
    again (least first), parts of the batch one after the other.  Then come a first moment in bfloat16 and smaller
    batches, of which the largest is looked for.  Each try is compiled and said.  What is refused, as logits in chunks
    by an objective that needs them whole, is on no later rung.
    """

    def tried(rung: dict[str, str]) -> Plan | None:
        changes = _written(rung)
        say(f"trying {' '.join(changes)}")
        try:
            plan = planned(override(experiment, list(changes), project()), " ".join(changes), where)
        except InputError as error:
            say(f"  {error}")
            return None
        say(f"  {'fits' if plan.fits else 'too much'}: {plan.peak / 2**30:.2f} of {plan.available / 2**30:.2f} GiB")
        return plan

    devices, high = len(topology(where)), experiment.batch_size
    before: list[dict[str, str]] = [{}]
    taken: set[tuple[str, str]] = set()
    refused: set[tuple[str, str]] = set()
    for whole in ladder(experiment, devices):
        rung = {name: value for name, value in whole.items() if (name, value) not in refused}
        if rung in before:
            continue
        before.append(rung)
        plan = tried(rung)
        if plan is None:
            refused |= rung.items() - taken
            continue
        taken |= rung.items()
        rows = int(rung.get("batch_size", high))
        if not plan.fits:
            high = rows
            continue
        for _ in range(HALVINGS):
            if (middle := (rows + high) // 2 // devices * devices) <= rows:
                break
            larger = {**rung, "batch_size": str(middle)}
            if (more := tried(larger)) is not None and more.fits:
                rung, plan, rows = larger, more, middle
            else:
                high = middle
        for name in list(rung)[:-1]:
            fewer = {other: value for other, value in rung.items() if other != name}
            if (smaller := tried(fewer)) is not None and smaller.fits:
                rung, plan = fewer, smaller
        return Advice(_written(rung), plan)
    return None


def ladder(experiment: Experiment, devices: int) -> Iterator[dict[str, str]]:
    """Sets of changes, in the order of what they cost; none sets what is so already."""
    base: dict[str, str] = {}
    head, objective = getattr(experiment.model, "head", None), experiment.objective
    chunks = isinstance(objective, InChunks) and objective.in_chunks
    if isinstance(head, LogitsHead | MultiTokenHead) and head.chunk is None and chunks:
        yield (base := {"model.head.chunk": "1024"})
    if isinstance(experiment.parallel, Jit | Pmap | Mesh) and getattr(experiment.parallel, "fsdp", 1) < devices:
        yield (base := {**base, "parallel": f"Mesh(fsdp={devices})"})
    stacks = [path for path in STACKS if isinstance(getattr(experiment.model, path.split(".")[1], None), Stack)]
    for policy in ("context", "dots", "full"):
        again = {f"{path}.remat": policy for path in stacks if keeps_less(policy, part(experiment, f"{path}.remat"))}
        if again:
            yield {**base, **again}
            base = {**base, **again} if policy == "full" else base
    parts = [parts for parts in (2, 4, 8, 16) if experiment.batch_size % (parts * experiment.accumulate * devices) == 0]
    turns = [{"accumulate": str(experiment.accumulate * each)} for each in parts]
    yield from ({**base, **turn} for turn in turns)  # the fewest parts first
    if getattr(experiment.optimizer, "momentum", None) == "float32":
        yield (base := {**base, "optimizer.momentum": "bfloat16"})
        yield from ({**base, **turn} for turn in turns)
    whole = {} if experiment.accumulate == 1 else {"accumulate": "1"}
    for share in (2, 4, 8, 16):
        if rows := experiment.batch_size // share // devices * devices:
            yield {**base, **whole, "batch_size": str(rows)}


def _written(changes: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"{name}={value}" for name, value in changes.items())
