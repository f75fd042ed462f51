"""Speculation changes how many passes a text takes, not the text: the likeliest tokens, or as likely ones."""

import dataclasses
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import (
    Attention,
    Block,
    GatedDeltaNet,
    LatentAttention,
    LearnedPosition,
    LogitsHead,
    PreNorm,
    RMSNorm,
    RoPE,
    Stack,
    TokenEmbed,
    Transformer,
)
from models.decoding import speculative
from models.decoding.sampling import MOST, Sampler, generate, padded
from models.decoding.speculative import Drafter, Lookup, judge, speculate
from tests.models.decoding.recomputed import sharpened

BLOCK = Block(Attention(2, kv_heads=1, causal=True, position=RoPE()), residual=PreNorm(RMSNorm()))
STACKS = {
    "loop": Stack((BLOCK, Block(Attention(2, causal=True))), 1),
    "scan": Stack(BLOCK, 2, scan=True),
    "tied": Stack(BLOCK, 2, tied=True),
    "latent": Stack(Block(LatentAttention(2, rank=8, rotary=4, causal=True)), 2),
}
PROMPTS = [[1, 2, 3, 1, 2, 3, 1], [5, 6], [7]]


def model_of(stack: Any, **embed: Any) -> Any:
    return Transformer(TokenEmbed(11, 16, **embed), stack, LogitsHead())


def expected(model: Any, params: Any, steps: int) -> np.ndarray:
    return np.stack([np.asarray(token) for token in generate(model, params, padded(PROMPTS), steps)], 1)


@pytest.mark.represented_by("loop", "scan")
@pytest.mark.parametrize("name", STACKS)
def test_the_likeliest_tokens_are_those_without_a_draft(name: str) -> None:
    model = model_of(STACKS[name])
    params, other = sharpened(model), sharpened(model_of(Stack(BLOCK, 1)))
    whole = expected(model, params, 21)
    drafts = {
        "lookup": Lookup(count=3, longest=2),
        "itself": Drafter(model, params, 4),
        "another": Drafter(model_of(Stack(BLOCK, 1)), other, 2),
    }
    passes = {}
    for kind, draft in drafts.items():
        given = list(speculate(model, params, padded(PROMPTS), 21, draft))
        np.testing.assert_array_equal(np.concatenate(given, 1), whole)
        passes[kind] = len(given)
    assert passes["itself"] == 5  # one token at first, then 5 a pass
    assert passes["another"] <= 21


def test_passes_do_not_depend_on_how_many_a_dispatch_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(STACKS["loop"])
    params, draft = sharpened(model), Lookup(count=2, longest=2)
    given = {}
    for most in (1, 3, MOST):
        monkeypatch.setattr(speculative, "plan_dispatch", lambda made, seconds, most=most: most)
        given[most] = [piece.tolist() for piece in speculate(model, params, padded(PROMPTS), 3 * MOST, draft)]
    assert given[1] == given[3] == given[MOST]
    np.testing.assert_array_equal(np.concatenate(given[1], 1), expected(model, params, 3 * MOST))
    assert list(speculate(model, params, padded(PROMPTS), 0, draft)) == []


def test_a_repetition_is_foretold_from_the_text() -> None:
    text = jnp.array([0, 0, 4, 5, 6, 4, 5, 6, 4, 0, 0, 0])
    found = {
        (known, first, longest): Lookup(5, longest)
        .propose((), text, jnp.asarray(known), jnp.asarray(first))[0]
        .tolist()
        for known, first, longest in ((9, 2, 4), (6, 2, 4), (5, 2, 4), (2, 0, 1), (9, 8, 4), (1, 0, 3))
    }
    assert found == {
        (9, 2, 4): [5, 6, 4, 5, 6],  # goes round
        (6, 2, 4): [5, 6, 4, 5, 6],
        (5, 2, 4): [6, 6, 6, 6, 6],  # 6 is new
        (2, 0, 1): [0, 0, 0, 0, 0],
        (9, 8, 4): [4, 4, 4, 4, 4],  # what is before the text's begin is not seen
        (1, 0, 3): [0, 0, 0, 0, 0],
    }
    later = jnp.array([1, 2, 3, 9, 2, 4, 9, 1, 2, 0, 0])
    assert Lookup(2, 2).propose((), later, jnp.asarray(9), jnp.asarray(0))[0].tolist() == [3, 9]  # of "1 2", not of "2"
    assert Lookup(2, 1).propose((), later, jnp.asarray(9), jnp.asarray(0))[0].tolist() == [4, 9]  # the latest "2"


@pytest.mark.parametrize("sampler", [Sampler(1.0), Sampler(0.7, top_k=3)], ids=["all", "top"])
def test_drawn_tokens_have_the_distribution_of_the_sampler(sampler: Sampler) -> None:
    logits = 1.5 * jax.random.normal(jax.random.key(0), (3, 5))
    drafts, draws = jnp.array([int(logits[0].argmax()), 2]), 200_000
    keys = jax.random.split(jax.random.key(1), draws)
    tokens, counts = jax.jit(jax.vmap(lambda key: judge(sampler, logits, drafts, key)))(keys)
    probs = np.asarray(jax.nn.softmax(sampler.filter(logits), -1))
    for place in range(3):
        reached = np.asarray(counts) > place
        seen = np.bincount(np.asarray(tokens)[reached, place], minlength=5) / reached.sum()
        np.testing.assert_allclose(seen, probs[place], atol=5 * np.sqrt(0.25 / reached.sum()))
    assert dict(Counter(np.asarray(counts).tolist()))[1] / draws == pytest.approx(1 - probs[0, drafts[0]], abs=5e-3)


def test_drawn_texts_go_on_after_what_was_drawn() -> None:
    model = model_of(STACKS["loop"])
    params = sharpened(model)
    for draft in (Lookup(3), Drafter(model, params, 3)):
        given = np.concatenate(list(speculate(model, params, padded(PROMPTS), 12, draft, Sampler(1.5, top_k=2), 3)), 1)
        again = np.concatenate(list(speculate(model, params, padded(PROMPTS), 12, draft, Sampler(1.5, top_k=2), 3)), 1)
        np.testing.assert_array_equal(given, again)
        for prompt, tokens in zip(PROMPTS, given, strict=True):  # each is one of the two likeliest after those before
            row = jnp.asarray([[*prompt, *tokens]])
            logits = model.apply({"params": params}, {"tokens": row})[0, len(prompt) - 1 : -1]
            assert (jax.lax.top_k(logits, 2)[1] == tokens[:, None]).any(-1).all()


def test_a_state_that_cannot_be_taken_back_is_refused() -> None:
    for mixer, kept in ((GatedDeltaNet(2), "inputs"), (Attention(2, causal=True, window=3), "keys")):
        model = model_of(Stack((BLOCK, Block(mixer)), 1))
        with pytest.raises(ValueError, match=rf"stack.*{kept}.*decode without a draft"):
            next(speculate(model, sharpened(model), padded(PROMPTS), 3))


def test_a_draft_with_too_few_positions_is_refused() -> None:
    model = model_of(Stack(BLOCK, 1))
    short = model_of(Stack(BLOCK, 1), position=LearnedPosition(12))
    with pytest.raises(ValueError, match="12 positions"):
        next(speculate(model, sharpened(model), padded(PROMPTS), 10, Drafter(short, sharpened(short), 2)))
    long = dataclasses.replace(short.embed, position=LearnedPosition(17))
    model = short.clone(embed=long)  # as many as the text has: what is foretold beyond it is dropped
    params = sharpened(model)
    given = np.concatenate(list(speculate(model, params, padded(PROMPTS), 10, Lookup(4))), 1)
    np.testing.assert_array_equal(given, expected(model, params, 10))
