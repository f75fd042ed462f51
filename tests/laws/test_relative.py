"""Laws of biases of attention scores: closed forms in float64, pair by pair, and attention with each of them."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Attention
from models.attention.relative import FIRE, ALiBi, CoPE, T5Bias
from models.attention.weigh import HIDDEN
from models.contracts import Relative
from models.laws.decoding import law_decoding_is_one_pass
from models.laws.layer import law_causal_sees_nothing_later, law_segments_do_not_mix
from models.laws.scores import HEADS, POSITIONS, QUERY, SCORES, SOURCES, VISIBLE, S, T, law_hidden_stays_hidden
from tests.laws.components import forms, normal, parameters


def alibi(pair: tuple[int, int], head: int) -> float:
    return -(2.0 ** (-2 * (head + 1))) * abs(pair[0] - pair[1])


def bucket(later: int, buckets: int, distance: int, bidirectional: bool) -> int:
    first = 0
    if bidirectional:
        buckets //= 2
        first = buckets if later > 0 else 0
    apart = abs(later) if bidirectional else max(-later, 0)
    exact = buckets // 2
    if apart < exact:
        return first + apart
    return first + min(
        exact + math.floor(math.log(apart / exact) / math.log(distance / exact) * (buckets - exact) + 1e-9), buckets - 1
    )


def t5(form: Any, pair: tuple[int, int], head: int) -> float:
    table = parameters_for(form)["table"]
    return table[head, bucket(pair[1] - pair[0], form.buckets, form.distance, form.bidirectional)]


def fire(form: Any, pair: tuple[int, int], head: int) -> float:
    params = parameters_for(form)
    c, length = abs(params["slope"]), form.length * abs(params["length_scale"])
    ratio = np.log(c * abs(pair[0] - pair[1]) + 1) / (np.log(c * max(*pair, length) + 1) + 1e-6)
    hidden = np.maximum(ratio * params["hidden"]["kernel"][0] + params["hidden"]["bias"], 0)
    return hidden @ params["out"]["kernel"][:, head]


@functools.cache
def parameters_for(form: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), parameters(form))


def law_bias_is_its_formula(form: Any, formula: Any) -> None:
    biased = jax.jit(form.apply)(
        {"params": parameters(form)}, SCORES, QUERY, jnp.asarray(POSITIONS), jnp.asarray(SOURCES)
    )
    expected = np.asarray(SCORES, np.float64)
    for b, h, t, s in np.ndindex(*expected.shape):
        expected[b, h, t, s] += formula((int(POSITIONS[b, 0, t]), int(SOURCES[b, 0, s])), h)
    np.testing.assert_allclose(np.asarray(biased), expected, atol=1e-4)


T5S = [T5Bias(), T5Bias(8, 20), T5Bias(16, 64, bidirectional=False)]
FORMULAS = [
    (ALiBi(), alibi),
    (FIRE(8, length=20.0), functools.partial(fire, FIRE(8, length=20.0))),
    *((form, functools.partial(t5, form)) for form in T5S),
]


@pytest.mark.parametrize(("form", "formula"), FORMULAS)
def test_a_bias_is_its_closed_form_pair_by_pair(form: Any, formula: Any) -> None:
    law_bias_is_its_formula(form, formula)


@pytest.mark.parametrize("form", T5S)
def test_buckets_of_t5_are_those_of_the_formula_at_every_distance(form: T5Bias) -> None:
    later = np.arange(-150, 151)
    params = {"table": jnp.arange(form.buckets, dtype=jnp.float32)[None]}
    found = form.apply(
        {"params": params},
        jnp.zeros((1, 1, 1, 301)),
        jnp.zeros((1, 1, 1, 4)),
        jnp.array([[[150]]]),
        later[None, None] + 150,
    )
    expected = [bucket(int(one), form.buckets, form.distance, form.bidirectional) for one in later]
    np.testing.assert_array_equal(np.asarray(found).ravel(), expected)


@pytest.mark.parametrize(
    ("heads", "slopes"),
    [(1, [8]), (2, [4, 8]), (8, range(1, 9)), (6, [2, 4, 6, 8, 1, 3]), (12, [*range(1, 9), 0.5, 1.5, 2.5, 3.5])],
)
def test_slopes_of_alibi_are_geometric_for_any_number_of_heads(heads: int, slopes: Any) -> None:
    biased = ALiBi().apply(
        {}, jnp.zeros((1, heads, 1, 1)), jnp.zeros((1, heads, 1, 4)), jnp.array([[[3]]]), jnp.array([[[2]]])
    )
    np.testing.assert_allclose(np.asarray(biased).ravel(), [-(2.0**-slope) for slope in slopes], rtol=1e-6)


def law_cope_is_its_formula(form: Any) -> None:
    scores = jnp.where(VISIBLE, 3 * SCORES, HIDDEN)
    table = np.asarray(normal(5, 4, 4), np.float64)
    found = jax.jit(form.apply)(
        {"params": {"table": jnp.asarray(table, jnp.float32)}}, scores, QUERY, POSITIONS, SOURCES
    )
    for b, h, t in np.ndindex(2, HEADS, T):
        place = 0.0
        for s in reversed(range(S)):
            if VISIBLE[t, s]:
                place += 1 / (1 + math.exp(-float(scores[b, h, t, s])))
                below = math.floor(min(place, 3.0))
                part = min(place, 3.0) - below
                vector = (1 - part) * table[below] + part * table[min(below + 1, 3)]
                expected = float(scores[b, h, t, s]) + np.asarray(QUERY, np.float64)[b, h, t] @ vector
                np.testing.assert_allclose(float(found[b, h, t, s]), expected, atol=1e-4)


def test_contextual_positions_are_their_closed_form() -> None:
    law_cope_is_its_formula(CoPE(4))


@pytest.mark.parametrize("form", forms(Relative))
def test_what_is_hidden_stays_hidden_and_changes_nothing(form: Any) -> None:
    law_hidden_stays_hidden(form)


ATTENTION = {
    "alibi": Attention(4, causal=True, relative=ALiBi()),
    "alibi_windowed": Attention(4, kv_heads=2, causal=True, window=3, relative=ALiBi()),
    "t5": Attention(4, causal=True, relative=T5Bias(bidirectional=False)),
    "fire": Attention(4, causal=True, relative=FIRE(8)),
    "cope": Attention(4, kv_heads=2, causal=True, relative=CoPE(4)),
}


@pytest.mark.parametrize("layer", ATTENTION.values(), ids=ATTENTION)
def test_causal_attention_with_a_bias_obeys_the_laws_of_layers(layer: Any) -> None:
    law_causal_sees_nothing_later(layer)
    law_segments_do_not_mix(layer)
    law_decoding_is_one_pass(layer)


@pytest.mark.parametrize("layer", [Attention(2, relative=T5Bias()), Attention(2, window=3, relative=ALiBi())])
def test_attention_that_sees_both_ways_with_a_bias_keeps_segments_apart(layer: Any) -> None:
    law_segments_do_not_mix(layer)


def test_a_bias_of_t5_refuses_buckets_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="buckets"):
        T5Bias(32, distance=8)


class Revealing(nn.Module):
    """Broken: what is hidden comes back."""

    @nn.compact
    def __call__(self, scores: jax.Array, query: jax.Array, positions: jax.Array, sources: jax.Array) -> jax.Array:
        return jnp.maximum(scores, -1.0)


BROKEN = [
    (law_bias_is_its_formula, (T5Bias(16, 128, bidirectional=False), functools.partial(t5, T5S[2]))),
    (law_bias_is_its_formula, (FIRE(8, length=21.0), functools.partial(fire, FIRE(8, length=20.0)))),
    (law_bias_is_its_formula, (Revealing(), alibi)),
    (law_cope_is_its_formula, (Revealing(),)),
    (law_hidden_stays_hidden, (Revealing(),)),
]


@pytest.mark.parametrize(("law", "given"), BROKEN)
def test_broken_components_fail(law: Any, given: Any) -> None:
    with pytest.raises(AssertionError):
        law(*given)
