"""Search for the smallest change that lets a training step fit, by compiling one candidate after the other."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

from models import LogitsHead, MultiTokenHead, Stack
from models.depth.remat import keeps_less
from models.structure import part
from train.contracts import InChunks
from train.errors import InputError
from train.experiment import Experiment
from train.parallel import Jit, Mesh, Pmap
from train.plan.step import Plan, plan_step
from train.plan.topology import find_devices
from train.spec.overrides import override
from train.spec.parts import list_project_parts

STACKS = ("model.stack", "model.encoder", "model.decoder")
HALVINGS = 3  # of the interval between a batch size that fits and one that does not


@runtime_checkable
class Headed(Protocol):
    """A model with a head."""

    @property
    def head(self) -> object: ...


@runtime_checkable
class Remembers(Protocol):
    """An optimizer with a first moment: the type of its numbers, or the factor of what it keeps."""

    @property
    def momentum(self) -> object: ...


@dataclasses.dataclass(frozen=True)
class Advice:
    """Changes as command-line arguments, and the plan of the step with them."""

    changes: tuple[str, ...]
    plan: Plan


def advise(experiment: Experiment, where: str, say: Callable[[str], object] = lambda text: None) -> Advice | None:
    """Searches the changes of `propose_changes` for the first with which the step fits; None if it fits with none.

    Those that change no number come first: logits in chunks, parameters spread over the chips, rematerialization
    (least first), gradient accumulation.  Then come a first moment in bfloat16 and smaller batches, of which the
    largest is searched for.  Last, each change without which the step still fits is dropped.  Each try is compiled and
    passed to `say`.  A change that is refused, such as logits in chunks by an objective that needs them whole, is not
    tried again.
    """

    def try_rung(rung: dict[str, str]) -> Plan | None:
        changes = _format_changes(rung)
        say(f"trying {' '.join(changes)}")
        try:
            plan = plan_step(override(experiment, list(changes), list_project_parts()), " ".join(changes), where)
        except InputError as error:
            say(f"  {error}")
            return None
        say(f"  {'fits' if plan.fits else 'too much'}: {plan.peak / 2**30:.2f} of {plan.available / 2**30:.2f} GiB")
        return plan

    devices, high = len(find_devices(where)), experiment.batch_size
    before: list[dict[str, str]] = [{}]
    accepted: set[tuple[str, str]] = set()
    refused: set[tuple[str, str]] = set()
    for whole in propose_changes(experiment, devices):
        rung = {name: value for name, value in whole.items() if (name, value) not in refused}
        if rung in before:
            continue
        before.append(rung)
        plan = try_rung(rung)
        if plan is None:
            refused |= rung.items() - accepted
            continue
        accepted |= rung.items()
        rows = int(rung.get("batch_size", high))
        if not plan.fits:
            high = rows
            continue
        for _ in range(HALVINGS):
            if (middle := (rows + high) // 2 // devices * devices) <= rows:
                break
            larger = {**rung, "batch_size": str(middle)}
            if (more := try_rung(larger)) is not None and more.fits:
                rung, plan, rows = larger, more, middle
            else:
                high = middle
        for name in list(rung)[:-1]:
            fewer = {other: value for other, value in rung.items() if other != name}
            if (smaller := try_rung(fewer)) is not None and smaller.fits:
                rung, plan = fewer, smaller
        return Advice(_format_changes(rung), plan)
    return None


def propose_changes(experiment: Experiment, devices: int) -> Iterator[dict[str, str]]:
    """Proposes sets of changes, cheapest first; none sets a value that is set already."""
    base: dict[str, str] = {}
    head = experiment.model.head if isinstance(experiment.model, Headed) else None
    objective, optimizer, parallel = experiment.objective, experiment.optimizer, experiment.parallel
    chunks = isinstance(objective, InChunks) and objective.in_chunks
    if isinstance(head, LogitsHead | MultiTokenHead) and head.chunk is None and chunks:
        yield (base := {"model.head.chunk": "1024"})
    if isinstance(parallel, Jit | Pmap | Mesh) and (parallel.fsdp if isinstance(parallel, Mesh) else 1) < devices:
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
    if isinstance(optimizer, Remembers) and optimizer.momentum == "float32":
        yield (base := {**base, "optimizer.momentum": "bfloat16"})
        yield from ({**base, **turn} for turn in turns)
    whole = {} if experiment.accumulate == 1 else {"accumulate": "1"}
    for share in (2, 4, 8, 16):
        if rows := experiment.batch_size // share // devices * devices:
            yield {**base, **whole, "batch_size": str(rows)}


def _format_changes(changes: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"{name}={value}" for name, value in changes.items())
