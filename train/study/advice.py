"""The smallest change that lets a training step fit, found by compiling what might."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from models import LogitsHead, Stack
from models.structure import part
from train.experiment import Experiment
from train.parallel import Jit, Mesh
from train.run import overridden
from train.spec import InputError, project
from train.study.plan import Plan, planned
from train.study.topology import topology

STACKS = ("model.stack", "model.encoder", "model.decoder")


@dataclasses.dataclass(frozen=True)
class Advice:
    """Changes as a command line has them, and the plan of the step with them."""

    changes: tuple[str, ...]
    plan: Plan


def advised(experiment: Experiment, where: str, say: Callable[[str], Any] = lambda text: None) -> Advice | None:
    """The first rung of a ladder on which the step fits, then less what it fits without; None if it fits on none.

    The ladder begins with what changes no number: logits in chunks, parameters spread over the chips, what is computed again (least
    first), parts of the batch one after the other.  Then come a first moment in bfloat16 and smaller batches.  Each try is compiled
    and said.
    """

    def tried(changes: tuple[str, ...]) -> Plan | None:
        say(f"trying {' '.join(changes)}")
        try:
            plan = planned(overridden(experiment, list(changes), project()), " ".join(changes), where)
        except InputError as error:
            say(f"  {error}")
            return None
        say(f"  {'fits' if plan.fits else 'too much'}: {plan.peak / 2**30:.2f} of {plan.available / 2**30:.2f} GiB")
        return plan if plan.fits else None

    for rung in ladder(experiment, len(topology(where))):
        if (plan := tried(_written(rung))) is not None:
            for name in list(rung)[:-1]:
                fewer = {other: value for other, value in rung.items() if other != name}
                if (smaller := tried(_written(fewer))) is not None:
                    rung, plan = fewer, smaller
            return Advice(_written(rung), plan)
    return None


def ladder(experiment: Experiment, devices: int) -> Iterator[dict[str, str]]:
    """Sets of changes, in the order of what they cost."""
    base: dict[str, str] = {}
    if isinstance(getattr(experiment.model, "head", None), LogitsHead) and part(experiment, "model.head.chunk") is None:
        yield (base := {"model.head.chunk": "1024"})
    if devices > 1 and (isinstance(experiment.parallel, Jit) or (isinstance(experiment.parallel, Mesh) and experiment.parallel.fsdp == 1)):
        yield (base := {**base, "parallel": f"Mesh(fsdp={devices})"})
    stacks = [path for path in STACKS if isinstance(getattr(experiment.model, path.split(".")[1], None), Stack)]
    for policy in ("context", "dots", "full"):
        again = {f"{path}.remat": policy for path in stacks if part(experiment, f"{path}.remat") != "full"}
        if again:
            yield {**base, **again}
            base = {**base, **again} if policy == "full" else base
    parts = [parts for parts in (2, 4, 8, 16) if experiment.batch_size % (parts * experiment.accumulate * devices) == 0]
    turns = [{"accumulate": str(experiment.accumulate * each)} for each in parts]
    yield from ({**base, **turn} for turn in turns)  # the fewest parts first
    if getattr(experiment.optimizer, "momentum", None) == "float32":
        yield (base := {**base, "optimizer.momentum": "bfloat16"})
        yield from ({**base, **turn} for turn in turns)
    for share in (2, 4, 8, 16):
        if rows := experiment.batch_size // share // devices * devices:
            yield {**base, "accumulate": "1", "batch_size": str(rows)}


def _written(changes: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"{name}={value}" for name, value in changes.items())
