"""Laws of parts together, pairwise: every form of attention with every relative, weigh, position, norm and residual,
behind all defaults.

Rows are longer than every default chunk, window, block and scan, so that what is wrong from the second of them on
shows.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import (
    Attention,
    Block,
    Context,
    Decoding,
    GatedDeltaNet,
    LayerNorm,
    LongConvolution,
    Memory,
    MinGRU,
    Softmax,
    Stack,
)
from models.attention.relative import FIRE
from models.attention.weigh import HIDDEN
from models.contracts import Layer, Norm, Position, Relative, Residual, Weigh, kind_of
from models.laws.inputs import name_tokens
from models.mixers.axial import Along
from models.mixers.noncausal import TokenMLP
from models.norm import HeadNorm
from models.position import AxialRoPE, LearnedPosition
from models.projection import Heads, merge
from models.residual.single import PreNorm
from models.structure import copy_as
from tests.laws.components import component_classes, forms_of, normal, random_like

# examples beyond 256, the longest default, and beyond 128, 64 and 16 several times
D, HEADS, EXAMPLE, SOURCE = 16, 4, 300, 70
LEFT, RIGHT = 5, 3  # padding, so that examples begin where no block does
# of decoding: tokens of the prompt with its padding, of the shorter example, and after the prompt
PREFIX, SECOND, STEPS = 290, 260, 15

FORMS: dict[str, dict[str, Any]] = {
    "causal": {"causal": True},
    "both ways": {},
    "causal window": {"causal": True, "window": 64},
    "window": {"window": 64},
    "causal chunk": {"causal": True, "chunk": 64},
    "chunk": {"chunk": 64},
    "causal long chunk": {"causal": True, "chunk": 256},
    "cross": {"cross": True},
}
LONG: dict[type, Any] = {
    LearnedPosition: LearnedPosition(2 * EXAMPLE + LEFT + RIGHT),
    AxialRoPE: AxialRoPE((20, 16)),
    FIRE: FIRE(8),
}


def of_kind(kind: type, *without: type, all_forms: bool = True) -> dict[str, Any]:
    """The forms of a kind's components by name, or the first of each, those that are too short for EXAMPLE tokens made
    longer.
    """
    owners = [owner for owner in component_classes() if kind_of(owner) is kind and owner not in without]
    return {
        f"{owner.__name__} {name}": form
        for owner in owners
        for name, form in list(({"long": LONG[owner]} if owner in LONG else forms_of(owner)).items())[
            : None if all_forms else 1
        ]
    }


PARTS: dict[str, dict[str, Any]] = {
    "form": FORMS,
    "position": {"none": None, **of_kind(Position, all_forms=False)},
    "relative": {"none": None, **of_kind(Relative)},
    "weigh": of_kind(Weigh),
    "qk_norm": {"none": None, **of_kind(Norm)},
    "kv_heads": {"as many": None, "two": 2, "one": 1},
    "more": {"none": {}, "gate": {"gate": True}, "bias": {"bias": True}},
    "residual": of_kind(Residual, all_forms=False),
    "norm": of_kind(Norm, HeadNorm),  # of the residual; HeadNorm is of heads
}


def allowed(row: Mapping[str, str]) -> bool:
    """Whether there is such an attention: what reads a memory has no places."""
    return row.get("form") != "cross" or all(row.get(name, "none") == "none" for name in ("position", "relative"))


def covering(parts: Mapping[str, Sequence[str]], allowed: Callable[[Mapping[str, str]], bool]) -> list[dict[str, str]]:
    """Rows in which every allowed pair of values of two parts stands side by side, greedily few."""
    values = [(name, value) for name in parts for value in parts[name]]
    left = {
        pair: {other for other in values if other[0] != pair[0] and allowed(dict((pair, other)))} for pair in values
    }
    rows: list[dict[str, str]] = []
    while first := next((pair for pair in values if left[pair]), None):
        row = dict([first])
        for name in sorted(parts, key=lambda name: -len(parts[name])):
            if name not in row:
                choices = [(name, value) for value in parts[name] if allowed({**row, name: value})]
                row |= [max(choices, key=lambda pair: (len(left[pair] & row.items()), len(left[pair])))]
        for pair in row.items():
            left[pair] -= row.items()
        rows.append({name: row[name] for name in parts})
    return rows


def stack_of(row: Mapping[str, str]) -> Stack:
    chosen = {name: PARTS[name][value] for name, value in row.items()}
    given = {name: chosen.get(name) for name in ("position", "relative", "qk_norm", "kv_heads")}
    attention = Attention(
        HEADS, weigh=chosen.get("weigh", Softmax()), **given, **chosen["form"], **chosen.get("more", {})
    )
    residual, norm = chosen.get("residual", PreNorm()), chosen.get("norm", LayerNorm())
    if hasattr(residual, "norm"):
        residual = dataclasses.replace(residual, norm=norm)
    return Stack(Block(attention, None, residual), 1)


class Defined(Attention):
    """The definition of attention over a row that is one example: all pairs, each query head with keys of its own, no
    blocks, no cache.
    """

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        (b, t, d), k = x.shape, self.width(x.shape[-1])
        source = ctx.memory.x if self.cross and ctx.memory is not None else x
        groups, s = self.kv_heads or self.heads, source.shape[1]
        query = Heads(self.bias, name="query")(x, self.heads, k)
        key, value = (Heads(self.bias, name=name)(source, groups, k) for name in ("key", "value"))
        if self.qk_norm is not None:
            query = copy_as(self.qk_norm, "query_norm")(query.swapaxes(1, 2)).swapaxes(1, 2)
            key = copy_as(self.qk_norm, "key_norm")(key.swapaxes(1, 2)).swapaxes(1, 2)
        i, j = np.arange(t)[:, None], np.arange(s)
        if self.position is not None:
            query, key = self.position(query, jnp.arange(t)), self.position(key, jnp.arange(s))
        key, value = (jnp.repeat(part, self.heads // groups, axis=1) for part in (key, value))
        visible = np.ones((t, s), bool)
        if self.causal:
            visible &= j <= i
        if self.window is not None:
            visible &= abs(i - j) < self.window
        if self.chunk is not None:
            visible &= i // self.chunk == j // self.chunk
        query = query * k**-0.5
        scores = jnp.where(visible, jnp.einsum("bhtk,bhsk->bhts", query, key), HIDDEN)
        if self.relative is not None:
            scores = self.relative(scores, query, jnp.asarray(i[None, None, :, 0]), jnp.asarray(j[None, None]))
        weights = self.weigh(scores, scores > HIDDEN / 2)
        mixed = jnp.einsum("bhts,bhsk->bhtk", weights, value)
        if self.gate:
            mixed = mixed * jax.nn.sigmoid(Heads(name="gate")(x, self.heads, k))
        return nn.Dense(d, use_bias=self.bias, name="out")(merge(mixed)).reshape(b, t, d)


ALONE, MEMORY = normal(1, 2, EXAMPLE, D), normal(2, 2, SOURCE, D)
NOISE = normal(3, 1, LEFT + RIGHT, D)
ROW = jnp.concatenate([NOISE[:, :LEFT], ALONE.reshape(1, -1, D), NOISE[:, LEFT:]], axis=1)
PLACES = np.concatenate([np.zeros(LEFT, int), np.arange(EXAMPLE), np.arange(EXAMPLE), np.zeros(RIGHT, int)])[None]
PACKED = Context(
    positions=jnp.asarray(PLACES),
    segments=jnp.asarray(np.repeat([[0, 1, 2, 0]], [LEFT, EXAMPLE, EXAMPLE, RIGHT], axis=1)),
    starts=jnp.array([[LEFT, LEFT + EXAMPLE]]),
    memory=Memory(MEMORY.reshape(1, -1, D), jnp.asarray(np.repeat([[1, 2]], SOURCE, axis=1))),
)
WAITING = PREFIX + STEPS  # tokens of a row of decoding: two prompts padded on the left to one length
PADS = (WAITING - EXAMPLE, WAITING - SECOND)
PROMPTS = jnp.stack(
    [jnp.concatenate([jnp.ones((pad, D)), ALONE[row, : WAITING - pad]]) for row, pad in enumerate(PADS)]
)
OWN = jnp.asarray(np.stack([np.maximum(np.arange(WAITING) - pad, 0) for pad in PADS]))
REAL = jnp.asarray(np.stack([np.arange(WAITING) >= pad for pad in PADS]).astype(np.int32))


def applied(layer: Any, params: Any, x: jax.Array, ctx: Context) -> jax.Array:
    y = layer.apply({"params": params}, x, dataclasses.replace(ctx, tokens=name_tokens(x)))
    return y[0] if isinstance(y, tuple) else y


def decoded(layer: Any, params: Any) -> jax.Array:
    """The prompts in one call, then one token after the other."""

    def call(cache: Any, x: jax.Array, first: Any, start: bool) -> tuple[jax.Array, Any]:
        rows = (jax.lax.dynamic_slice_in_dim(part, first, x.shape[1], 1) for part in (OWN, REAL))
        memory = Memory(MEMORY, jnp.ones((2, SOURCE), jnp.int32))
        ctx = Context(*rows, memory=memory, tokens=name_tokens(x), decoding=Decoding(first, WAITING, start))
        y, kept = layer.apply({"params": params, **cache}, x, ctx, mutable=["cache"])
        return y[0] if isinstance(y, tuple) else y, {"cache": kept.get("cache", {})}

    def step(cache: Any, first: jax.Array) -> tuple[Any, jax.Array]:
        y, cache = call(cache, jax.lax.dynamic_slice_in_dim(PROMPTS, first, 1, 1), first, False)
        return cache, y[:, 0]

    y, cache = call({}, PROMPTS[:, :PREFIX], 0, True)
    return jnp.concatenate([y, jax.lax.scan(step, cache, jnp.arange(PREFIX, WAITING))[1].swapaxes(0, 1)], axis=1)


def law_rows_are_those_of(layer: Any, alone: Any, decodes: bool, tolerance: float = 2e-5) -> None:
    """What `layer` gives for packed rows, and while decoding, is what `alone` gives for each example, in value."""
    whole = Context(memory=Memory(MEMORY), tokens=name_tokens(ALONE))
    params = random_like(jax.eval_shape(lambda: alone.init(jax.random.key(0), ALONE, whole)).get("params", {}))

    def run(params: Any) -> Any:
        expected = applied(alone, params, ALONE, Context(memory=Memory(MEMORY)))
        return expected, applied(layer, params, ROW, PACKED), decoded(layer, params) if decodes else None

    expected, packed, steps = jax.jit(run)(params)
    size = float(jnp.abs(expected).max())
    np.testing.assert_allclose(packed[0, LEFT:-RIGHT].reshape(expected.shape) / size, expected / size, atol=tolerance)
    if steps is not None:
        for row, pad in enumerate(PADS):
            np.testing.assert_allclose(steps[row, pad:] / size, expected[row, : WAITING - pad] / size, atol=tolerance)


def law_parts_together_are_the_definition(row: Mapping[str, str]) -> None:
    stack = stack_of(row)
    block = stack.pattern[0]
    given = {
        field.name: getattr(block.mixer, field.name)
        for field in dataclasses.fields(Attention)
        if field.name not in ("parent", "name")
    }
    alone = dataclasses.replace(stack, block=dataclasses.replace(block, mixer=Defined(**given)))
    law_rows_are_those_of(stack, alone, row["form"].startswith(("causal", "cross")))


ROWS = covering({name: list(values) for name, values in PARTS.items()}, allowed)


def identifier(row: Mapping[str, str]) -> str:
    return ", ".join(value for value in row.values() if value != "none")


def test_the_rows_cover_every_pair_and_are_few() -> None:
    for a, b in itertools.combinations(PARTS, 2):
        wanted = {(x, y) for x in PARTS[a] for y in PARTS[b] if allowed({a: x, b: y})}
        assert {(row[a], row[b]) for row in ROWS} == wanted
    largest = sorted(map(len, PARTS.values()))[-2:]
    assert len(ROWS) < 2 * largest[0] * largest[1]


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=identifier)
def test_parts_together_give_what_the_definition_gives_for_each_example_alone(row: Mapping[str, str]) -> None:
    law_parts_together_are_the_definition(row)


FEW = [
    {"form": "causal window", "relative": "BlockRouting default", "kv_heads": "two"},
    {
        "form": "causal chunk",
        "position": "RoPE default",
        "weigh": "Softmax capped_sunk",
        "relative": "BlockRouting small",
    },
    {"form": "chunk", "qk_norm": "HeadNorm default", "residual": "HyperConnections static"},
    {"form": "cross", "weigh": "Sigmoid default", "kv_heads": "one"},
    {"form": "causal", "position": "LearnedPosition long", "relative": "BlockRouting default"},
]


@pytest.mark.represented_by(*(identifier(row) for row in FEW[2:4]))
@pytest.mark.parametrize("row", FEW, ids=identifier)
def test_a_few_parts_together_give_what_the_definition_gives(row: Mapping[str, str]) -> None:
    law_parts_together_are_the_definition(row)


def sequential() -> list[Any]:
    """The layers that go along a row: all but those of a grid or of places of their own, and attention, whose forms
    stand above.
    """
    owners = [
        owner for owner in component_classes() if kind_of(owner) is Layer and owner not in (Attention, Along, TokenMLP)
    ]
    return [
        pytest.param(form, id=f"{owner.__name__}-{name}") for owner in owners for name, form in forms_of(owner).items()
    ]


def law_packed_rows_and_decoding_are_the_examples_alone(layer: Any) -> None:
    decodes = getattr(layer, "causal", True)
    law_rows_are_those_of(layer, layer, decodes, 5e-4)  # quotients amplify the rounding of another order of sums


@pytest.mark.slow
@pytest.mark.parametrize("layer", sequential())
def test_a_layer_gives_for_packed_rows_and_decoding_what_it_gives_for_each_example_alone(layer: Any) -> None:
    law_packed_rows_and_decoding_are_the_examples_alone(layer)


@pytest.mark.represented_by("MinGRU")
@pytest.mark.parametrize(
    "layer", [MinGRU(), GatedDeltaNet(4), LongConvolution(length=64)], ids=lambda layer: type(layer).__name__
)
def test_a_few_recurrences_and_convolutions_give_for_packed_rows_what_they_give_alone(layer: Any) -> None:
    law_packed_rows_and_decoding_are_the_examples_alone(layer)


class ByIndex(nn.Module):
    """Broken: parts a row into chunks by index, and takes the mean so far of each."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        chunk = np.arange(x.shape[1]) // 256
        seen = jnp.asarray((chunk[:, None] == chunk) & np.tri(x.shape[1], dtype=bool))[None]
        seen = seen if ctx.segments is None else seen & (ctx.segments[:, :, None] == ctx.segments[:, None])
        return seen @ x / seen.sum(-1, keepdims=True)


def test_broken_components_fail() -> None:
    with pytest.raises(AssertionError):
        law_rows_are_those_of(ByIndex(), ByIndex(), False)
