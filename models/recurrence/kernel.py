"""A rule over chunks as two Pallas kernels for TPU: a chunk's intermediates and the state stay in VMEM."""

import functools
from collections.abc import Callable, Sequence
from types import EllipsisType
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas
from jax.experimental.pallas import tpu as pallas_tpu

from models.backend.kernels import SAVED, by_rows
from models.recurrence.chunked import Chunks, Rule, State, take_row, turn_column

TOGETHER = 4  # chunks of a block at most: the memory that enters each block is kept for the backward pass
# bytes that a kernel may take: keys of 512 and values of 1,024 compile for v5e, v5p, v6e and tpu7x
VECTOR_MEMORY = 64 * 2**20

Index = EllipsisType | tuple[int, ...]


class Ref(Protocol):
    """A block of an array in VMEM, which a kernel reads and writes by index."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, index: Index, /) -> jax.Array: ...

    def __setitem__(self, index: Index, value: jax.Array, /) -> None: ...


# All that a kernel reads and writes has axes (b, h or 1, blocks or 1, chunks of a block or 1) and then those of one
# chunk.


def run_in_kernel(
    rule: Rule,
    inputs: Sequence[jax.Array],
    segments: jax.Array | None,
    state: State,
    size: int,
    interpret: bool = False,
) -> tuple[jax.Array, State]:
    """A rule over time: inputs (b, h, t, w), the last log decays (b, h, t, 1 or k) -> (b, h, t, v) and the last state.

    The grid is rows, heads, and blocks of a few chunks of `size` tokens.  Backward goes from the last block to the
    first: each is made again from the memory that entered it, and differentiated, in vector memory.  Reverse-mode
    gradients of first order only.
    """
    b, h, t, _ = inputs[0].shape
    chunks = -(-t // size)
    together = min(TOGETHER, chunks)
    missing = -t % (size * together)
    if segments is not None:
        segments = jnp.pad(segments, ((0, 0), (0, missing)), mode="edge")
    among = Chunks.of(segments, state.segment, t + missing, size)
    marks = [
        jnp.broadcast_to(x, among.segments.shape)[..., 0]
        for x in (among.segments, among.reads, among.writes, among.keeps)
    ]
    marks = jnp.stack(marks, 3).astype(jnp.float32).reshape(b, 1, -1, together, len(marks), size)

    def blocks(x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, 0), (0, missing), (0, 0))).reshape(b, h, -1, together, size, x.shape[3])

    arrays = [blocks(x) for x in inputs]
    if arrays[-1].shape[-1] == 1:
        arrays[-1] = arrays[-1].swapaxes(-1, -2)  # tokens along the vectors
    memory, y = by_rows(_differentiable(rule, interpret), b)(state.memory[:, :, None, None], marks, *arrays)
    return y.reshape(b, h, -1, y.shape[-1])[:, :, :t], State(memory[:, :, 0, 0], among.last)


def _differentiable(rule: Rule, interpret: bool) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """A differentiable function: (first memory, marks of tokens, *inputs) -> (last memory, outputs)."""

    def block(
        marks: Sequence[Chunks], memory: jax.Array, inputs: Sequence[Sequence[jax.Array]]
    ) -> tuple[jax.Array, list[jax.Array]]:
        outputs = list[jax.Array]()
        for chunk, (*wide, log_decay) in zip(marks, inputs, strict=True):
            column = log_decay if log_decay.shape[0] == chunk.size else turn_column(log_decay)
            passing, reading = rule.parts(chunk, *(x.astype(jnp.float32) for x in wide), column)
            outputs.append(rule.read(memory, *reading))
            memory = rule.advance(memory, *passing)
        return memory, outputs

    def run(
        name: str,
        body: Callable[..., None],
        arrays: Sequence[jax.Array],
        made: Sequence[jax.ShapeDtypeStruct],
        reverse: bool,
    ) -> Sequence[jax.Array]:
        (b, h, *_, k, v), n = made[0].shape, arrays[0].shape[2]
        call = pallas.pallas_call(
            body,
            grid=(b, h, n),
            in_specs=[_block(x.shape, n, reverse) for x in arrays],
            out_specs=[_block(x.shape, n, reverse) for x in made],
            out_shape=list(made),
            scratch_shapes=[pallas_tpu.VMEM((k, v), jnp.float32)],
            compiler_params=pallas_tpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=VECTOR_MEMORY
            ),
            interpret=interpret,
            name=f"{rule.name}_{name}",
        )
        with jax.named_scope(f"{rule.name}_{name}"):  # older versions of jax do not name it
            # without jit, jax keeps a kernel in a program even if its outputs are unused
            return jax.jit(call)(*arrays)

    def forward(memory: jax.Array, marks: jax.Array, *inputs: jax.Array) -> Sequence[jax.Array]:
        """The last memory, the outputs, and the memory that enters each block."""

        def body(marks: Ref, start: Ref, *refs: Ref) -> None:
            *inputs, last, outputs, entering, held = refs
            _begin(held, start)
            entering[0, 0, 0, 0] = held[...]
            held[...], results = block(_chunks(marks), held[...], _cut(inputs))
            for index, output in enumerate(results):
                outputs[0, 0, 0, index] = output
            last[0, 0, 0, 0] = held[...]

        shapes = memory.shape, inputs[2].shape, (*memory.shape[:2], marks.shape[2], *memory.shape[3:])
        return run(
            "forward",
            body,
            [marks, memory, *inputs],
            [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes],
            False,
        )

    def backward(saved: Sequence[jax.Array], cotangents: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        marks, entering, *inputs = saved

        def body(marks: Ref, last: Ref, outputs: Ref, entering: Ref, *refs: Ref) -> None:
            inputs, (first, *grads, held) = refs[: len(saved) - 2], refs[len(saved) - 2 :]
            _begin(held, last)
            _, pull = jax.vjp(functools.partial(block, _chunks(marks)), entering[0, 0, 0, 0], _cut(inputs))
            held[...], gradients = pull((held[...], [chunk for (chunk,) in _cut([outputs])]))
            for index, chunk in enumerate(gradients):
                for ref, gradient in zip(grads, chunk, strict=True):
                    ref[0, 0, 0, index] = gradient
            first[0, 0, 0, 0] = held[...]

        made = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (cotangents[0], *inputs)]
        memory, *gradients = run("backward", body, [marks, *cotangents, entering, *inputs], made, True)
        return memory, jnp.zeros_like(marks), *gradients

    @jax.custom_vjp
    def last_and_outputs(memory: jax.Array, marks: jax.Array, *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        last, outputs, _ = forward(memory, marks, *inputs)
        return last, outputs

    def keep(
        memory: jax.Array, marks: jax.Array, *inputs: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], Sequence[jax.Array]]:
        last, outputs, entering = (checkpoint_name(x, SAVED) for x in forward(memory, marks, *inputs))
        return (last, outputs), (marks, entering, *inputs)

    last_and_outputs.defvjp(keep, backward)
    return last_and_outputs


def _block(shape: Sequence[int], n: int, reverse: bool) -> pallas.BlockSpec:
    """The part of an array for a row, a head and one of n blocks."""

    def index_map(at_row: jax.Array, head: jax.Array, index: jax.Array) -> tuple[jax.Array | int, ...]:
        return (
            at_row,
            0 if shape[1] == 1 else head,
            0 if shape[2] == 1 else n - 1 - index if reverse else index,
            0,
            0,
            0,
        )

    return pallas.BlockSpec((1, 1, 1, *shape[3:]), index_map)


def _begin(held: Ref, start: Ref) -> None:
    """Copies `start` to the scratch at the first block of a row's head."""

    @pallas.when(pallas.program_id(2) == 0)
    def _() -> None:
        held[...] = start[0, 0, 0, 0]


def _cut(refs: Sequence[Ref]) -> list[list[jax.Array]]:
    """The inputs of each chunk of a block."""
    return [[ref[0, 0, 0, index] for ref in refs] for index in range(refs[0].shape[3])]


def _chunks(marks: Ref) -> list[Chunks]:
    """The masks of each chunk of a block."""
    chunks = list[Chunks]()
    for (mark,) in _cut([marks]):
        size = mark.shape[1]
        across, *touched = (mark[index : index + 1] for index in range(mark.shape[0]))
        segments, reads, writes, keeps = (turn_column(x) for x in (across, *touched))
        chunks.append(
            Chunks(segments, (segments == across) & jnp.tri(size, dtype=bool), reads, writes, take_row(keeps, 0), size)
        )
    return chunks
