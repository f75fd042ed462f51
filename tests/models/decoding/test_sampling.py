"""Generation against what the definition says: recomputing everything, drawing by hand, trying every continuation."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import (
    Attention,
    Block,
    EncoderDecoder,
    LogitsHead,
    MultiTokenHead,
    PreNorm,
    RMSNorm,
    RoPE,
    Stack,
    TokenEmbed,
    Transformer,
)
from models.decoding import sampling
from models.decoding.beam import beam
from models.decoding.sampling import MOST, Sampler, advance, generate, padded, plan_dispatch, prefill
from tests.laws.components import DECODER, ENCODER, parameters, tokens
from tests.models.decoding.recomputed import recomputed, sharpened
from tests.places import CONFIGS
from train.cli import main
from train.cost.traced import count_flops
from train.use import evaluate

LANGUAGE_MODEL = str(CONFIGS / "language_model.py")
BLOCK = Block(Attention(2, causal=True, position=RoPE()), residual=PreNorm(RMSNorm()))
WINDOWED = Block(Attention(2, kv_heads=1, causal=True, window=3))
MODELS = {
    "loop": Transformer(TokenEmbed(11, 16), Stack((BLOCK, WINDOWED), 1), LogitsHead()),
    "scan": Transformer(TokenEmbed(11, 16), Stack((BLOCK, WINDOWED), 2, scan=True), LogitsHead()),
    "tied": Transformer(TokenEmbed(11, 16), Stack(BLOCK, 2, tied=True), LogitsHead()),
}
TRANSLATOR = EncoderDecoder(TokenEmbed(11, 16), Stack(ENCODER, 1), Stack(DECODER, 2, scan=True), LogitsHead())
PROMPTS = [[1, 2, 3, 4], [5, 6], [7]]


@pytest.mark.represented_by("tied")
@pytest.mark.parametrize("name", MODELS)
def test_the_likeliest_tokens_are_those_of_recomputing_for_prompts_of_unequal_length(name: str) -> None:
    model, params = MODELS[name], sharpened(MODELS[name])
    found = np.stack(list(generate(model, params, padded(PROMPTS), 6)), 1)
    expected = [recomputed(model, params, prompt, 6) for prompt in PROMPTS]
    assert found.tolist() == expected
    assert len(np.unique(found)) > 1
    np.testing.assert_array_equal(beam(model, params, padded(PROMPTS), 6, width=1)[0], expected)


@pytest.mark.parametrize("sampler", [Sampler(), Sampler(1.0, top_k=5)])
def test_tokens_do_not_depend_on_how_many_a_dispatch_makes(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    model, params, steps, dispatches = MODELS["tied"], sharpened(MODELS["tied"]), 2 * MOST + 5, []

    def make(plan: Callable[[int, float], int]) -> np.ndarray:
        def count(made: int, seconds: float) -> int:
            dispatches.append(made)
            return plan(made, seconds)

        dispatches.clear()
        monkeypatch.setattr(sampling, "plan_dispatch", count)
        return np.stack(list(generate(model, params, padded(PROMPTS), steps, sampler, seed=3)))

    alone = make(lambda made, seconds: 1)
    assert dispatches == [1] * steps
    np.testing.assert_array_equal(make(lambda made, seconds: MOST), alone)
    assert dispatches == [1, MOST, MOST, 4]
    np.testing.assert_array_equal(make(plan_dispatch), alone)


def test_a_dispatch_is_short_and_grows_to_its_most() -> None:
    assert [plan_dispatch(1, seconds) for seconds in (3.0, 0.051, 0.026, 0.024, 0.0001)] == [1, 1, 1, 2, 2]
    assert [plan_dispatch(20, seconds) for seconds in (3.0, 0.1, 0.05, 0.0001)] == [1, 10, 20, MOST]


@pytest.mark.slow
def test_a_decoder_reads_its_source_while_generating() -> None:
    params, source = sharpened(TRANSLATOR), tokens(3, 2, 5)
    segments = jnp.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    prompts = padded([[1, 2], [3]]) | {"source": source, "source_segments": segments}
    found = np.stack(list(generate(TRANSLATOR, params, prompts, 5)), 1)
    one = recomputed(TRANSLATOR, params, [1, 2], 5, source=source[:1])
    two = recomputed(TRANSLATOR, params, [3], 5, source=source[1:, :3])
    assert found.tolist() == [one, two]
    np.testing.assert_array_equal(beam(TRANSLATOR, params, prompts, 5, width=1)[0], [one, two])


@pytest.mark.slow
@pytest.mark.represented_by("2")
@pytest.mark.parametrize("end", [None, 2, 1])  # the last one ends the best continuation at once
def test_a_beam_wide_enough_finds_the_best_of_all_continuations(end: int | None) -> None:
    model = Transformer(TokenEmbed(3, 16), Stack(BLOCK, 1), LogitsHead())
    params, prompt, steps, penalty = parameters(model), [0, 1], 3, 0.6  # not so sharp that every chance is 0 or 1

    def score(tail: tuple[int, ...]) -> float:
        logits = model.apply({"params": params}, {"tokens": jnp.asarray([prompt + list(tail)])})[0]
        chances = np.asarray(jax.nn.log_softmax(logits))
        count = steps if end is None or end not in tail else tail.index(end) + 1
        return float(sum(chances[1 + i, tail[i]] for i in range(count)) / ((5 + count) / 6) ** penalty)

    def whole(tail: tuple[int, ...]) -> bool:  # nothing but `end` follows an `end`
        return end is None or end not in tail or set(tail[tail.index(end) :]) == {end}

    tails = [tail for tail in itertools.product(range(3), repeat=steps) if whole(tail)]
    best = max(tails, key=score)
    found, value = beam(
        model, params, {"tokens": jnp.asarray([prompt, prompt])}, steps, width=27, end=end, penalty=penalty
    )
    assert found.tolist() == [list(best)] * 2
    np.testing.assert_allclose(value, [score(best)] * 2, rtol=1e-4)


LOGITS = jnp.log(jnp.array([[0.5, 0.25, 0.15, 0.07, 0.03]]))
KEPT = [
    (Sampler(1.0), 5),
    (Sampler(1.0, top_k=2), 2),
    (Sampler(1.0, top_k=9), 5),
    (Sampler(1.0, top_p=0.5), 1),
    (Sampler(1.0, top_p=0.8), 3),
    (Sampler(1.0, min_p=0.2), 3),
    (Sampler(1.0, top_k=4, min_p=0.2), 3),
]


@pytest.mark.parametrize(("sampler", "count"), KEPT)
def test_a_sampler_draws_the_kept_tokens_by_their_probabilities(sampler: Sampler, count: int) -> None:
    draws = np.asarray(sampler(jnp.repeat(LOGITS, 20_000, 0), jax.random.key(0)))
    expected = np.exp(np.asarray(LOGITS))[0] * (np.arange(5) < count)
    frequencies = np.bincount(draws, minlength=5) / len(draws)
    np.testing.assert_allclose(frequencies, expected / expected.sum(), atol=0.02)
    assert (frequencies[count:] == 0).all()


def test_temperature_sharpens_and_zero_takes_the_likeliest() -> None:
    np.testing.assert_allclose(Sampler(0.5).filter(LOGITS), 2 * LOGITS, rtol=1e-6)
    assert Sampler()(LOGITS, jax.random.key(0)).tolist() == [0]


def test_one_seed_gives_one_text_and_another_another() -> None:
    model, params = MODELS["loop"], parameters(MODELS["loop"])
    one, again, other = (
        np.stack(list(generate(model, params, padded(PROMPTS), 8, Sampler(1.0), seed))) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Sampler(-1.0), "temperature is -1.0"),
        (lambda: Sampler(top_k=0), "top_k is 0"),
        (lambda: Sampler(top_p=1.5), "top_p is 1.5"),
        (lambda: padded([[1], []]), "no tokens"),
        (lambda: next(generate(SEES_ALL, parameters(SEES_ALL), padded([[1]]), 1)), "cannot decode"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("head", [LogitsHead(), MultiTokenHead(2)], ids=["LogitsHead", "MultiTokenHead"])
def test_the_logits_of_a_prompt_are_computed_for_its_last_token_alone(head: Any) -> None:
    def count(vocab: int) -> int:
        model = Transformer(TokenEmbed(vocab, 16), Stack(BLOCK, 1), head)
        batch = padded([[1, 2, 3, 4], [5, 6, 7]])
        params = jax.eval_shape(lambda: model.init(jax.random.key(0), batch)["params"])
        return count_flops(lambda params, batch: prefill(model, params, batch, 8), params, batch)

    rows, width = 2, 16
    assert count(111) - count(11) == rows * 2 * width * 100


SEES_ALL = Transformer(TokenEmbed(11, 16), Stack(Block(Attention(2)), 1), LogitsHead())


def test_the_cache_of_a_window_holds_the_window_and_no_more() -> None:
    shapes = [
        jax.eval_shape(lambda n=n: prefill(MODELS["loop"], parameters(MODELS["loop"]), padded(PROMPTS), n))[1]
        for n in (16, 32)
    ]
    sizes = [
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(cache)}
        for cache in shapes
    ]
    same = [path for path in sizes[0] if sizes[0][path] == sizes[1][path]]
    assert same
    assert all(("layer_1" in path) == (path in same) for path in sizes[0])


@pytest.fixture(scope="module")
def run(workshop: Path) -> Iterator[str]:
    """A trained language model, in the working folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workshop)
        patch.setenv("MORPHAX_CACHE", str(workshop / "cache"))
        assert main(["train", LANGUAGE_MODEL, "steps=3", "--run", "runs/generating", "--json"]) == 0
        yield "runs/generating"


def test_the_command_streams_one_prompt_and_answers_several_in_json(
    run: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--config", LANGUAGE_MODEL, "--tokens", "12")
    capsys.readouterr()
    assert main(["generate", run, "a fine", *options]) == 0
    streamed = capsys.readouterr().out
    assert main(["generate", run, "a fine", "film", *options, "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert [answer["prompt"] for answer in answers] == ["a fine", "film"]
    assert streamed == "a fine" + answers[0]["text"] + "\n"
    assert main(["generate", run, "a fine", *options, "--beams", "3"]) == 0
    assert capsys.readouterr().out.startswith("a fine")
    types: set[Any] = set()

    def note(model: Any, params: Any, *rest: Any) -> Iterator[np.ndarray]:
        types.update(leaf.dtype for leaf in jax.tree.leaves(params))
        return generate(model, params, *rest)

    monkeypatch.setattr(evaluate, "continued", note)
    assert main(["generate", run, "a fine", *options, "--precision", "bfloat16"]) == 0
    assert capsys.readouterr().out.startswith("a fine")
    assert types == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("", "--tokens", "3"), "no tokens"),
        (("a", "--tokens", "0"), "--tokens is 0"),
        (("a", "--top-p", "2", "--temperature", "1"), "Sampler.top_p is 2.0"),
        (("a", "--temperature", "-1"), "Sampler.temperature is -1.0"),
    ],
)
def test_the_command_refuses_what_cannot_be_in_one_sentence(
    run: str, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    capsys.readouterr()
    assert main(["generate", run, *arguments, "--config", LANGUAGE_MODEL]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert words in err


def test_one_text_is_decoded_on_a_cpu_without_a_copy_of_its_cache() -> None:
    stack, room = Stack(BLOCK, 2), 93
    model = Transformer(TokenEmbed(11, 16), stack, LogitsHead())
    params, one = parameters(model), jnp.ones((1, 1), jnp.int32)
    row: dict[str, jax.Array] = {"tokens": one, "positions": one, "segments": one}
    cache = jax.eval_shape(lambda: prefill(model, params, row, room)[1])
    step = jax.jit(lambda cache, index: advance(model, params, cache, row, index, room), donate_argnums=0)
    count = jax.ShapeDtypeStruct((), jnp.int32)
    state = jnp.zeros((1, 11)), jnp.asarray(1), jnp.ones(1, jnp.int32), jax.random.key(0)
    several = sampling._take_next[True].lower(model, params, cache, state, count, Sampler(), room)
    for lowered in (step.lower(cache, count), several):
        program = lowered.compile().as_text() or ""
        made = Counter(re.findall(r"= f32\[1,2,93,8\]\S* ([\w-]+)\(", program))
        assert made["parameter"] >= 4  # keys and values of two layers
        assert made["copy"] == 0
