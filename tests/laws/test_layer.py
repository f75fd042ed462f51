"""Laws of layers: what a token's output may depend on."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Attention, Context, RoPE, SinusoidalPosition
from models.cache import recall, remember
from models.contracts import Layer
from models.laws.declared import claims, says_causal
from models.laws.decoding import (
    law_a_prompt_in_parts_is_one_pass,
    law_decoding_is_one_pass,
    law_foretold_tokens_are_taken_back,
)
from models.laws.layer import (
    law_causal_sees_nothing_later,
    law_cross_reads_the_whole_memory,
    law_keeps_the_shape,
    law_only_differences_of_positions_matter,
    law_segments_do_not_mix,
    law_window_reaches_as_far_as_it_says,
    law_without_positions_order_does_not_matter,
    reach,
)
from models.laws.verdict import BrokenLawError, NotTestedError
from tests.laws.components import WIDTH, forms, is_recurrence, normal, parameters

TOKENS = 8
X = normal(1, TOKENS, WIDTH)


def selected(condition: Any) -> list[Any]:
    chosen = [form for form in forms(Layer) if condition(form.values[0])]
    assert chosen
    return chosen


def decodes(layer: Any) -> bool:
    return says_causal(layer) or not hasattr(layer, "causal") or getattr(layer, "cross", False)


def orderless(layer: Any) -> bool:
    fields = ("causal", "window", "position")
    return all(hasattr(layer, name) for name in fields) and not any(getattr(layer, name) for name in fields)


# the quick tests have one form of each class that does not decode; of the others they have the law of decoding
ALONE = {type(form.values[0]): str(form.id) for form in reversed(selected(lambda layer: not decodes(layer)))}


@pytest.mark.represented_by(*ALONE.values())
@pytest.mark.parametrize("layer", forms(Layer))
def test_a_layer_keeps_the_shape_and_never_mixes_segments(layer: Any) -> None:
    law_keeps_the_shape(layer)
    law_segments_do_not_mix(layer)


@pytest.mark.represented_by("Attention-causal", "GatedDeltaNet-default")
@pytest.mark.parametrize("layer", selected(says_causal))
def test_a_causal_layer_has_no_derivative_by_later_tokens(layer: Any) -> None:
    law_causal_sees_nothing_later(layer)


# in the quick tests the other recurrences have their papers' formulas and the chunks of test_recurrence.py
RECURRENCES = ("GatedDeltaNet", "Mamba2")
DECODED = [
    pytest.param(
        *form.values,
        id=form.id,
        marks=pytest.mark.slow
        if is_recurrence(form.values[0]) and type(form.values[0]).__name__ not in RECURRENCES
        else (),
    )
    for form in selected(decodes)
]


@pytest.mark.parametrize("layer", DECODED)
def test_decoding_one_token_after_the_other_is_one_pass(layer: Any) -> None:
    law_decoding_is_one_pass(layer)


# parts of 70 tokens, longer than the blocks that a CPU computes attention in and than the windows of the forms
PARTS = 176


@pytest.mark.represented_by("Attention-causal", "GatedDeltaNet-default")
@pytest.mark.parametrize("layer", selected(decodes))
def test_a_prompt_in_parts_is_one_pass(layer: Any) -> None:
    law_a_prompt_in_parts_is_one_pass(layer, PARTS)


# layers whose cache has a place for each token and nothing else; the rest keep a state or nothing
GROWING = {"AdaptiveStack", "Attention", "DifferentialAttention", "LatentAttention", "SharedAttention", "ValueResidual"}


def grows(layer: Any) -> bool:
    cut = any(getattr(layer, name, None) for name in ("window", "chunk", "cross"))
    return decodes(layer) and type(layer).__name__ in GROWING and not cut


@pytest.mark.represented_by("Attention-causal", "LatentAttention-causal")
@pytest.mark.parametrize("layer", selected(grows))
def test_foretold_tokens_are_taken_back(layer: Any) -> None:
    law_foretold_tokens_are_taken_back(layer)


class Adds(nn.Module):
    """Gives each token as it came, by a cache that adds to a place and does not write over it."""

    causal: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        if ctx.decoding is None:
            return x
        b, t, d = x.shape
        rows, first = recall(self, ctx, "rows", jnp.zeros((b, ctx.decoding.length, d))), ctx.decoding.index
        now = jax.lax.dynamic_slice_in_dim(rows, first, t, 1) + x
        remember(self, ctx, "rows", jax.lax.dynamic_update_slice_in_dim(rows, now, first, 1))
        return now


def test_a_cache_that_keeps_what_was_foretold_wrongly_is_found() -> None:
    law_decoding_is_one_pass(Adds())
    with pytest.raises(BrokenLawError, match="token 4"):
        law_foretold_tokens_are_taken_back(Adds())


@pytest.mark.parametrize("layer", selected(is_recurrence))
@pytest.mark.slow
def test_a_state_is_not_taken_back(layer: Any) -> None:
    with pytest.raises(NotTestedError, match="keeps a state"):
        law_foretold_tokens_are_taken_back(layer)


@pytest.mark.parametrize("layer", selected(lambda layer: getattr(layer, "window", None)))
def test_a_window_reaches_exactly_as_far_as_it_says(layer: Any) -> None:
    law_window_reaches_as_far_as_it_says(layer)


@pytest.mark.parametrize("layer", selected(lambda layer: getattr(layer, "cross", False)))
def test_cross_attention_reads_the_memory_and_of_the_stream_only_its_own_token(layer: Any) -> None:
    law_cross_reads_the_whole_memory(layer)
    own, _ = reach(layer, False)
    assert ((own > 0) == np.eye(TOKENS, dtype=bool)).all()


@pytest.mark.parametrize("layer", selected(orderless))
def test_attention_without_positions_and_mask_is_equivariant_to_permutations(layer: Any) -> None:
    law_without_positions_order_does_not_matter(layer)


@pytest.mark.parametrize("layer", selected(lambda layer: any(claims(layer, "position"))))
def test_with_rotary_positions_a_common_shift_changes_nothing(layer: Any) -> None:
    law_only_differences_of_positions_matter(layer)


def applied(layer: Any, params: Any) -> np.ndarray:
    return np.asarray(layer.apply({"params": params}, X[None], Context())[0])


def test_as_many_kv_heads_as_heads_is_multi_head_attention() -> None:
    params = parameters(Attention(4))
    np.testing.assert_array_equal(applied(Attention(4, kv_heads=4), params), applied(Attention(4), params))


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_grouped_attention_is_multi_head_attention_with_keys_and_values_repeated(kv_heads: int) -> None:
    grouped = Attention(4, kv_heads=kv_heads, causal=True, position=RoPE(), bias=True)
    params = parameters(grouped)
    assert params["key"]["kernel"].shape == params["value"]["kernel"].shape == (WIDTH, kv_heads * WIDTH // 4)

    def repeated(leaf: np.ndarray) -> np.ndarray:
        return np.repeat(leaf.reshape(*leaf.shape[:-1], kv_heads, WIDTH // 4), 4 // kv_heads, -2).reshape(
            *leaf.shape[:-1], WIDTH
        )

    wide = {
        name: jax.tree.map(repeated, jax.device_get(part)) if name in ("key", "value") else part
        for name, part in params.items()
    }
    full = dataclasses.replace(grouped, kv_heads=None)
    np.testing.assert_allclose(applied(grouped, params), applied(full, wide), atol=1e-5)


def test_attention_is_the_closed_form_in_float64() -> None:
    layer = Attention(4, causal=True)
    wide, params = np.asarray(X, np.float64), parameters(layer)
    query, key, value = (
        (wide @ np.asarray(params[n]["kernel"], np.float64)).reshape(TOKENS, 4, 4) for n in ("query", "key", "value")
    )
    scores = np.einsum("thk,shk->hts", query, key) / 2 + np.where(np.tri(TOKENS), 0, -np.inf)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    mixed = np.einsum("hts,shk->thk", weights, value).reshape(TOKENS, WIDTH) @ np.asarray(
        params["out"]["kernel"], np.float64
    )
    np.testing.assert_allclose(applied(layer, params), mixed, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments_given", "words"),
    [
        ({"heads": 4, "kv_heads": 3}, "must divide"),
        ({"window": 0}, "window"),
        ({"cross": True, "causal": True}, "cross"),
    ],
)
def test_attention_refuses_settings_that_contradict_each_other(arguments_given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Attention(**arguments_given)


class Wider(nn.Module):
    """Broken: gives another width."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return jnp.concatenate([x, x], -1)


class Average(nn.Module):
    """Broken: the mean over the row, whatever it says of segments, order and reach."""

    causal: bool = True
    window: int | None = 2

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return x + x.mean(1, keepdims=True)


class MemoryAverage(nn.Module):
    """Broken: mixes the segments of the memory."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        assert ctx.memory is not None
        return x + ctx.memory.x.mean(1, keepdims=True)


class Peek(nn.Module):
    """Broken: each token sees the one after it, and only that."""

    causal: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return jnp.roll(x, -1, 1)


class Amnesia(nn.Module):
    """Broken: the sum of what came so far, forgotten between calls."""

    causal: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return jnp.cumsum(x, 1)


class OneByOne(nn.Module):
    """Broken: the sum of what came so far in the example, that adds one token at a time after the prompt."""

    causal: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        seen = x if ctx.segments is None else jnp.where((ctx.segments > 0)[..., None], x, 0)
        total = recall(self, ctx, "total", jnp.zeros((x.shape[0], 1, x.shape[2])))
        y = total + (jnp.cumsum(seen, 1) if ctx.decoding is None or ctx.decoding.start else seen)
        remember(self, ctx, "total", y[:, -1:])
        return y


class Restless(nn.Module):
    """Broken: each token as it is, and a number that is kept with one type after the prompt and another later."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        if ctx.decoding is not None:
            kept = self.variable("cache", "kept", lambda: jnp.zeros(()))
            kept.value = jnp.zeros((), jnp.int32 if ctx.decoding.start else jnp.float32)
        return x


def test_a_layer_that_takes_one_token_at_a_time_decodes_and_has_no_prompt_in_parts() -> None:
    law_decoding_is_one_pass(OneByOne())


def test_what_is_kept_has_one_type() -> None:
    with pytest.raises(AssertionError, match=r"what is kept is .*int32.* before token 4 and .*float32"):
        law_decoding_is_one_pass(Restless())


BROKEN = [
    (law_decoding_is_one_pass, Amnesia()),
    (law_a_prompt_in_parts_is_one_pass, OneByOne()),
    (law_keeps_the_shape, Wider()),
    (law_segments_do_not_mix, Average()),
    (law_segments_do_not_mix, MemoryAverage()),
    (law_causal_sees_nothing_later, Peek()),
    (law_causal_sees_nothing_later, Attention(4)),
    (law_window_reaches_as_far_as_it_says, Average()),
    (law_window_reaches_as_far_as_it_says, Average(window=9)),
    (law_cross_reads_the_whole_memory, Attention(4)),
    (law_without_positions_order_does_not_matter, Peek()),
    (law_only_differences_of_positions_matter, Attention(4, position=SinusoidalPosition())),
    (law_only_differences_of_positions_matter, Attention(4)),
]


@pytest.mark.parametrize(("law", "layer"), BROKEN)
def test_broken_components_fail(law: Any, layer: Any) -> None:
    with pytest.raises(AssertionError):
        law(layer)
