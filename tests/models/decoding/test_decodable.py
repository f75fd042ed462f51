"""Models with parts of one's own decode as one pass says, or are refused in one sentence before anything is
generated.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import (
    MLP,
    Attention,
    Block,
    EncoderDecoder,
    LogitsHead,
    PreNorm,
    RMSNorm,
    RoPE,
    Stack,
    Sum,
    TokenEmbed,
    Transformer,
)
from models.cache import extend, index_extended, index_new, recall, remember
from models.context import Context, Decoding
from models.contracts import Layer
from models.decoding.beam import beam
from models.decoding.decodable import find_keepers, mixes, name_states, require_decodable, trace_calls
from models.decoding.sampling import generate, padded
from models.experts.noncausal import SoftMoE
from models.laws.decoding import law_decoding_is_one_pass
from models.structure import replace
from tests.laws.components import forms
from tests.models.decoding.recomputed import recomputed, sharpened
from train.config import load_config
from train.engine.prepared import prepare
from train.errors import InputError
from train.plan import step as plan

PROMPTS = padded([[1, 2, 3, 4], [5, 6]])


class RunningMean(nn.Module):
    """Mixes and keeps nothing."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return nn.Dense(x.shape[-1])(jnp.cumsum(x, 1) / jnp.arange(1, x.shape[1] + 1)[:, None])


class FarBack(nn.Module):
    """Mixes each token with the one seven before it alone."""

    @nn.compact
    def __call__(self, inputs: jax.Array, context: Context) -> jax.Array:
        return inputs + jnp.pad(inputs, ((0, 0), (7, 0), (0, 0)))[:, : inputs.shape[1]]


class KeptMean(nn.Module):
    """The running mean, whose total is kept."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        real = jnp.ones(x.shape[:2]) if ctx.segments is None else ctx.segments > 0
        given = jnp.concatenate([x * real[..., None], real[..., None]], -1)
        total = jnp.cumsum(given, 1) + recall(self, ctx, "total", jnp.zeros((x.shape[0], 1, x.shape[2] + 1)))
        remember(self, ctx, "total", total[:, -1:])
        return nn.Dense(x.shape[-1])(total[..., :-1] / jnp.maximum(total[..., -1:], 1))


class KeptAll(nn.Module):
    """The running mean over all inputs, which are kept."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        inputs = extend(self, ctx, "inputs", x, axis=1)
        seen = (index_extended(ctx, x.shape[1]) <= index_new(ctx, x.shape[1])[:, None])[None]
        if ctx.segments is not None:
            seen = seen & (ctx.segments[:, :, None] == extend(self, ctx, "segments", ctx.segments, axis=1)[:, None])
        return Squared(name="within")(seen @ inputs / seen.sum(-1, keepdims=True), ctx)


class Squared(nn.Module):
    """Acts on each token alone."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return nn.Dense(x.shape[-1])(nn.LayerNorm()(x) ** 2)


class Half(nn.Module):
    """Attention that keeps its keys, whose results are summed up and not kept."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return jnp.cumsum(Attention(2, causal=True)(x, ctx), 1)


class Smooth(nn.Module):
    """A residual that mixes the stream."""

    @nn.compact
    def __call__(self, state: jax.Array, branch: Any, ctx: Context) -> jax.Array:
        return state + branch(state) + jnp.pad(state, ((0, 0), (1, 0), (0, 0)))[:, :-1]


class Pairs(nn.Module):
    """An embed of each token with the one before it."""

    @nn.compact
    def __call__(self, batch: Any, ctx: Context) -> tuple[jax.Array, Context]:
        x = nn.Embed(11, 16)(batch["tokens"])
        return x + jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1], ctx


class Whole(nn.Module):
    """A model that takes decoding for one pass."""

    @nn.compact
    def __call__(self, batch: Any, train: bool = False, decoding: Any = None) -> jax.Array:
        return nn.Dense(11)(jnp.cumsum(nn.Embed(11, 16)(batch["tokens"]), 1))


ATTENTION = Attention(2, causal=True, position=RoPE())


def model(*mixers: Any, **options: Any) -> Transformer:
    return Transformer(
        TokenEmbed(11, 16),
        Stack(tuple(Block(mixer, residual=PreNorm(RMSNorm())) for mixer in mixers), 2, **options),
        LogitsHead(),
    )


TRANSLATOR = EncoderDecoder(
    TokenEmbed(11, 16),
    Stack(Block(RunningMean()), 1),
    Stack(Block(ATTENTION, cross=Attention(2, cross=True)), 1),
    LogitsHead(),
)
REFUSED = {
    "alone": (model(RunningMean()), "RunningMean at stack/layer_0/mixer mixes tokens and keeps none of them"),
    "hybrid": (model(ATTENTION, RunningMean()), "RunningMean at stack/layer_1/mixer mixes"),
    "scanned": (model(ATTENTION, FarBack(), scan=True), "FarBack at stack/blocks/block_1/mixer mixes"),
    "rematerialised": (model(ATTENTION, FarBack(), remat="full"), "FarBack at stack/layer_1/mixer mixes"),
    "beside": (model(Sum((ATTENTION, RunningMean()))), "RunningMean at stack/layer_0/mixer/layers_1 mixes"),
    "half": (model(Half()), "Half at stack/layer_0/mixer mixes"),
    "residual": (
        Transformer(TokenEmbed(11, 16), Stack(Block(ATTENTION, residual=Smooth()), 1), LogitsHead()),
        "Smooth at",
    ),
    "embed": (
        Transformer(Pairs(), Stack(Block(ATTENTION), 1), LogitsHead(tied=False, vocab=11)),
        "Pairs at embed mixes",
    ),
    "model": (Whole(), "Whole mixes tokens"),
    "decoder": (
        EncoderDecoder(
            TokenEmbed(11, 16),
            Stack(Block(), 1),
            Stack(Block(RunningMean(), cross=Attention(2, cross=True)), 1),
            LogitsHead(),
        ),
        "RunningMean at decoder/layer_0/mixer mixes",
    ),
}


@pytest.mark.represented_by("alone")
@pytest.mark.parametrize("name", REFUSED)
def test_what_mixes_tokens_and_keeps_nothing_is_refused_in_a_sentence_that_says_how_to_keep(name: str) -> None:
    refused, words = REFUSED[name]
    batch = PROMPTS | ({"source": jnp.ones((2, 5), jnp.int32)} if isinstance(refused, EncoderDecoder) else {})
    with pytest.raises(ValueError, match=words) as caught:
        next(generate(refused, {}, batch, 9))
    assert "by `remember` or `extend` of models/cache.py" in str(caught.value)
    with pytest.raises(ValueError, match=words):
        beam(refused, {}, batch, 9)


KEEPING = {
    "total": model(KeptMean()),
    "inputs": model(ATTENTION, KeptAll(), scan=True),
    "positionwise": model(Squared()),
    "feedforward": Transformer(TokenEmbed(11, 16), Stack(Block(ATTENTION, Squared()), 1), LogitsHead()),
}


@pytest.mark.parametrize("name", KEEPING)
@pytest.mark.slow
def test_what_keeps_a_state_or_needs_none_decodes_as_recomputing_says(name: str) -> None:
    keeping = KEEPING[name]
    params = sharpened(keeping)
    found = np.stack(list(generate(keeping, params, PROMPTS, 5)), 1)
    assert found.tolist() == [recomputed(keeping, params, prompt, 5) for prompt in ([1, 2, 3, 4], [5, 6])]
    np.testing.assert_array_equal(beam(keeping, params, PROMPTS, 5, width=1)[0], found)


@pytest.mark.parametrize("layer", [KeptMean(), KeptAll()])
def test_the_layers_that_keep_a_state_obey_the_law_of_decoding(layer: Any) -> None:
    law_decoding_is_one_pass(layer)


@pytest.mark.slow
def test_a_search_that_is_part_of_a_larger_program_is_refused_or_found_as_well() -> None:
    refused, words = REFUSED["hybrid"]
    with pytest.raises(ValueError, match=words):
        jax.jit(lambda params: beam(refused, params, PROMPTS, 3)[0])(sharpened(refused))
    keeping = KEEPING["total"]
    found = jax.jit(lambda params: beam(keeping, params, PROMPTS, 4)[0])(sharpened(keeping))
    np.testing.assert_array_equal(found, beam(keeping, sharpened(keeping), PROMPTS, 4)[0])


@pytest.mark.slow
def test_a_plan_of_decoding_refuses_it_too() -> None:
    experiment = replace(load_config("tiny_lm", [])[0], "model", REFUSED["hybrid"][0])
    example = {name: jax.ShapeDtypeStruct((2, 16), jnp.int32) for name in ("tokens", "segments", "positions")}
    with pytest.raises(
        InputError, match=r"^This model cannot decode: RunningMean at stack/layer_1/mixer mixes tokens and keeps none"
    ):
        plan._prepare_decoding(experiment, {}, example)


@pytest.mark.slow
def test_training_with_a_search_refuses_it_before_the_first_step() -> None:
    experiment = replace(load_config("translate_numbers", [])[0], "model.decoder.block.mixer", RunningMean())
    data = experiment.data.open(only="train")
    with pytest.raises(
        InputError, match="The objective Translation searches with a model that decodes: RunningMean at decoder/"
    ):
        prepare(experiment, data)


@pytest.mark.slow
def test_an_encoder_needs_no_cache() -> None:
    require_decodable(TRANSLATOR, PROMPTS | {"source": jnp.ones((2, 5), jnp.int32)}, 9)


def law_what_keeps_nothing_mixes_nothing(layer: Any) -> None:
    """By the analysis itself, which `require_decodable` spares the package's own classes."""
    t, whole = 8, Transformer(TokenEmbed(11, 16), Stack(Block(layer, None), 1))
    rows = {
        "tokens": np.zeros((1, t), np.int32),
        "segments": np.ones((1, t), np.int32),
        "positions": np.arange(t, dtype=np.int32)[None],
    }
    try:
        kept, refusal = find_keepers(trace_calls(whole, rows, Decoding(0, t, True))[1]), None
    except ValueError as error:
        kept, refusal = set(), str(error)
    if refusal is not None:
        assert "decode" in refusal or "ctx.memory" in refusal
        return
    assert not [
        call.path
        for call in trace_calls(whole, rows, None)[0]
        if call.path not in kept and call.path and mixes(call, kept)
    ]


@pytest.mark.parametrize("layer", [Attention(4, causal=True), MLP(), SoftMoE(4, 1)])
def test_a_layer_of_the_package_keeps_what_it_mixes_or_refuses_to_decode(layer: Any) -> None:
    law_what_keeps_nothing_mixes_nothing(layer)


@pytest.mark.slow
@pytest.mark.parametrize("layer", forms(Layer))
def test_every_layer_of_the_package_keeps_what_it_mixes_or_refuses_to_decode(layer: Any) -> None:
    law_what_keeps_nothing_mixes_nothing(layer)


def test_broken_components_fail() -> None:
    for layer in (RunningMean(), FarBack(), Half()):
        with pytest.raises(AssertionError):
            law_what_keeps_nothing_mixes_nothing(layer)


def test_what_has_a_place_for_each_token_is_told_from_states() -> None:
    def cache(length: int) -> dict[str, jax.ShapeDtypeStruct]:
        shapes = {"keys": (1, 2, length, 4), "state": (1, 4), "levels": (1, length.bit_length(), 4)}
        shapes |= {"blocks": (1, length // 4, 4), "pairs": (1, length, length)}
        return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}

    assert sorted(name_states({8: cache(8), 32: cache(32)})) == ["blocks", "levels", "pairs", "state"]
