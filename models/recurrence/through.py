"""A rule over time, by the program that serves platform and shapes."""

from collections.abc import Callable
from typing import Protocol

import jax

from models.backend.implementation import Recurrent, choose_recurrence
from models.backend.platform import kind, platform
from models.cache import Caching, recall, remember
from models.context import Context
from models.recurrence.chunked import Chunks, Rule, State, floor_decay, join, scan_chunks
from models.recurrence.kernel import run_in_kernel


def run_rule(
    rule: Rule,
    inputs: tuple[jax.Array, ...],
    segments: jax.Array | None = None,
    state: State | None = None,
    chunk: int | None = None,
    implementation: Recurrent | None = None,
) -> tuple[jax.Array, State]:
    """Outputs (b, h, t, v) and the last state of a rule over inputs (b, h, t, w), from `state` on.

    Keys and values are the second and third input, log decays the last.  `segments` (b, t) each begin from zero,
    `chunk` is the number of tokens in a chunk (see `floor_decay`), and `implementation` is chosen by
    `choose_recurrence`.
    """
    (b, h, t, k), v = inputs[1].shape, inputs[2].shape[3]
    log_decay, size = floor_decay(inputs[-1], chunk)
    inputs, size = (*inputs[:-1], log_decay), min(size, t)
    state = State.empty(b, h, k, v) if state is None else state
    if choose_recurrence(implementation, t, k * v, platform(), kind()) == "pallas":
        return run_in_kernel(rule, inputs, segments, state, size, interpret=platform() == "cpu")
    chunks = Chunks.of(segments, state.segment, t, size)
    passing, reading = rule.parts(chunks, *(chunks.cut(x) for x in inputs))
    entering, memory = scan_chunks(rule.advance, state.memory, *passing)
    return join(rule.read(entering, *reading), t), State(memory, chunks.last)


class Recurring(Caching, Protocol):
    """A layer with a state in its cache, and a choice of the program that advances it."""

    @property
    def implementation(self) -> Recurrent | None: ...


def resume(
    owner: Recurring, ctx: Context, run: Callable[..., tuple[jax.Array, State]], *inputs: jax.Array
) -> jax.Array:
    """The outputs of a layer's recurrence from the state in its cache on, by the layer's `implementation`."""
    (b, h, _, k), v = inputs[1].shape, inputs[2].shape[3]
    state = recall(owner, ctx, "state", State.empty(b, h, k, v))
    mixed, state = run(*inputs, ctx.segments, state, implementation=owner.implementation)
    remember(owner, ctx, "state", state)
    return mixed
