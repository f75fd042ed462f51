"""Costs of an experiment: counted from traces, and measured where a compiler or a clock has to be asked."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
from flax.linen.module import InterceptorContext

from models.contracts import Embed, kind_of
from models.depth.stack import Stack
from models.structure import fields
from train.config import load_config
from train.cost.active import count_active
from train.cost.decoding import measure_decoding
from train.cost.traced import count_flops, count_parameters
from train.cost.value import Cost
from train.engine.prepared import Prepared, prepare
from train.engine.requirements import settle
from train.engine.step import make_loss
from train.precision import cast
from train.variants import Budget


@runtime_checkable
class Jitted(Protocol):
    """A function that `jax.jit` made, which is lowered for a compiler by the shapes of its arguments."""

    def lower(self, *args: object) -> jax.stages.Lowered: ...


def read_cost(prepared: Prepared, state: bool = False) -> Cost:
    """The parameters and FLOPs of an experiment's step, and with `state` what decoding keeps."""
    kept, length, work = _read_decoding(prepared) if state else (None, None, None)
    return Cost(count_parameters(prepared.shapes), prepared.work, state=kept, length=length, decoding=work)


def read_whole_cost(prepared: Prepared, compiled: bool = False) -> Cost:
    """Every cost of an experiment that a trace tells, and if `compiled` the activations of its compiled step."""
    kept, length, work = _read_decoding(prepared)
    model, shapes, batch = prepared.experiment.model, prepared.shapes, prepared.batch
    loss = make_loss(model, prepared.experiment.objective, prepared.experiment.precision)
    embeds = {field.name for field in fields(model) if kind_of(getattr(model, field.name)) is Embed}
    embedding = sum(count_parameters(leaves) for name, leaves in shapes.items() if name in embeds)
    tokens = _count_tokens(prepared)
    active = None
    if tokens:
        counted = count_active(lambda params, batch: loss(params, batch)[0], shapes, tokens, batch)
        active = embedding + sum(sum(jax.tree.leaves(leaves)) for name, leaves in counted.items() if name not in embeds)
    return Cost(
        count_parameters(shapes),
        prepared.work,
        embedding=embedding,
        active=active,
        forward=count_flops(lambda params, batch: loss(params, batch)[0], shapes, batch),
        activations=measure_activations(prepared) if compiled else None,
        state=kept,
        length=length,
        decoding=work,
    )


def prepare_config(config: str, overrides: Sequence[str], files: Sequence[str] = ()) -> Prepared:
    """Prepares a config with overrides.  Raises InputError if it cannot be trained."""
    experiment, _ = load_config(config, list(overrides), files)
    data = experiment.data.open()
    return prepare(settle(experiment, data)[0], data)


def load_cost(config: str, overrides: Sequence[str], files: Sequence[str] = (), budget: Budget = "flops") -> Cost:
    """The cost of a config with overrides as far as a budget asks.  Raises InputError if it cannot be trained."""
    return read_cost(prepare_config(config, overrides, files), budget == "state")


def measure_activations(prepared: Prepared) -> int | None:
    """Bytes that the compiled step takes on one device beside its arguments; None if a compiler does not tell."""
    memory = _analyse_memory(prepared.step, *prepared.parallel.abstract(prepared.state, prepared.batch))
    return None if memory is None else memory.activations


def measure_memory(step: object, *args: object) -> int | None:
    """Bytes that a compiled step takes on one device: arguments, results that are not in their place, activations.

    A step that was called with such arguments is not compiled again.  None if a compiler does not tell.
    """
    memory = _analyse_memory(step, *args)
    return None if memory is None else memory.arguments + memory.results + memory.activations


class Memory(NamedTuple):
    """Bytes of a compiled step on one device; results are those that are not in the place of an argument."""

    arguments: int
    results: int
    activations: int


def _analyse_memory(step: object, *args: object) -> Memory | None:
    analysis = step.lower(*args).compile().memory_analysis() if isinstance(step, Jitted) else None
    if analysis is None:
        return None
    results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return Memory(analysis.argument_size_in_bytes, results, analysis.temp_size_in_bytes)


def _read_decoding(prepared: Prepared) -> tuple[int | None, int | None, int | None]:
    """The state of a decoder, its length and the FLOPs of a token; None for a model that does not decode."""
    if "tokens" not in prepared.batch:
        return None, None, None
    length = prepared.batch["tokens"].shape[1]
    experiment = prepared.experiment
    params = jax.eval_shape(lambda tree: cast(tree, experiment.precision), prepared.shapes)
    try:
        kept, work = measure_decoding(experiment.model, params, prepared.batch, length)
    except (ValueError, TypeError):  # what layers raise that see later tokens
        return None, None, None
    return kept, length, work


def _count_tokens(prepared: Prepared) -> int:
    """The tokens of a batch, padding included: those of the longest stack; 0 for a model without one."""
    counts = [0]

    def note(
        run: Callable[..., object],
        args: tuple[object, ...],
        keywords: Mapping[str, object],
        at: InterceptorContext,
    ) -> object:
        if isinstance(at.module, Stack) and at.method_name == "__call__" and isinstance(args[0], jax.Array):
            counts.append(args[0].shape[0] * args[0].shape[1])
        return run(*args, **keywords)

    model = prepared.experiment.model
    with nn.intercept_methods(note):
        jax.eval_shape(lambda params, batch: model.apply({"params": params}, batch), prepared.shapes, prepared.batch)
    return max(counts)
