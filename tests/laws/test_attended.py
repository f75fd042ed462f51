"""The weights of attention that are caught on their way out: what they must be, for every form and for scanned
stacks.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import (
    Attention,
    Block,
    DifferentialAttention,
    EncoderDecoder,
    ForgettingAttention,
    LatentAttention,
    LogitsHead,
    SharedAttention,
    Stack,
    TokenEmbed,
    Transformer,
    ValueResidual,
    scanned,
)
from models.inspect.attention import attention_weights
from tests.laws.attended import BATCH, WIDTH, made
from train.engine.step import initialise, make_step
from train.objectives import NextToken
from train.optimizers import SGD, Constant

FORMS = {
    "plain": Attention(4),
    "causal": Attention(4, causal=True),
    "grouped": Attention(4, kv_heads=2, causal=True),
    "one key": Attention(4, kv_heads=1),
}
OTHERS = {
    "differential": DifferentialAttention(2, causal=True),
    "forgetting": ForgettingAttention(2, causal=True),
    "latent": LatentAttention(2, causal=True, rank=8),
    "shared": SharedAttention(2, causal=True),
    "values of the first": ValueResidual(2, causal=True),
    "window": Attention(2, causal=True, window=2),
}


def crossed(scan: bool = False, remat: str | None = None) -> EncoderDecoder:
    """An encoder and a decoder of two layers each."""
    decoder = Block(Attention(4, causal=True), cross=Attention(4, kv_heads=2, cross=True))
    return EncoderDecoder(
        TokenEmbed(30, WIDTH),
        Stack(Block(Attention(4)), repeats=2, scan=scan),
        Stack(decoder, repeats=2, scan=scan, remat=remat),
        LogitsHead(),
    )


def parameters(model: Any) -> Any:
    return jax.jit(model.init)(jax.random.key(0), BATCH)["params"]


def seen(model: Any, params: Any = None, batch: Any = BATCH) -> dict[str, jax.Array]:
    """The weights, computed in one program."""
    return jax.jit(lambda params: attention_weights(model, params, batch))(
        parameters(model) if params is None else params
    )


def law_rows_sum_to_one_and_hidden_tokens_get_nothing(weights: np.ndarray, visible: np.ndarray) -> None:
    seen = np.broadcast_to(visible[:, None], weights.shape)
    some = seen.any(-1)
    np.testing.assert_allclose(weights.sum(-1)[some], 1, rtol=1e-6)
    assert (weights[some][~seen[some]] == 0).all()
    assert (weights >= 0).all()
    assert weights[some].std() > 0


def same(left: jax.Array, right: jax.Array) -> np.ndarray:
    return np.asarray(left[:, :, None] == right[:, None])


@pytest.mark.represented_by("plain-scan", "grouped-loop")
@pytest.mark.parametrize("scan", [False, True], ids=["loop", "scan"])
@pytest.mark.parametrize("form", FORMS)
def test_weights_are_a_mean_over_what_is_visible(form: str, scan: bool) -> None:
    model = made(FORMS[form], scan)
    found = seen(model)
    assert list(found) == ["stack.0.mixer", "stack.1.mixer"]
    visible = same(BATCH["segments"], BATCH["segments"]) & (
        np.tril(np.ones((6, 6), bool)) if FORMS[form].causal else True
    )
    for weights in found.values():
        assert weights.shape == (2, 4, 6, 6)
        law_rows_sum_to_one_and_hidden_tokens_get_nothing(np.asarray(weights), visible)


@pytest.mark.slow
@pytest.mark.represented_by("scan")
@pytest.mark.parametrize("scan", [False, True], ids=["loop", "scan"])
def test_weights_over_a_source_are_a_mean_over_its_example(scan: bool) -> None:
    model = crossed(scan)
    found = seen(model)
    places = (("encoder", "mixer"), ("decoder", "mixer"), ("decoder", "cross"))
    assert set(found) == {f"{part}.{row}.{name}" for row in (0, 1) for part, name in places}
    for row in (0, 1):
        weights = np.asarray(found[f"decoder.{row}.cross"])
        assert weights.shape == (2, 4, 6, 5)
        law_rows_sum_to_one_and_hidden_tokens_get_nothing(weights, same(BATCH["segments"], BATCH["source_segments"]))


@pytest.mark.represented_by("latent")
@pytest.mark.parametrize("form", OTHERS)
def test_every_form_of_attention_gives_its_weights(form: str) -> None:
    first = int(isinstance(OTHERS[form], ValueResidual))  # whose first layer has other parameters
    model = made(OTHERS[form], scan=True, repeats=2 - first, prefix=first)
    found = seen(model, batch={"tokens": BATCH["tokens"]})
    assert list(found) == ["stack.0.mixer", "stack.1.mixer"]
    for weights in found.values():
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)


@pytest.mark.represented_by("2-itself")
@pytest.mark.parametrize("cross", [False, True], ids=["itself", "a source"])
@pytest.mark.parametrize("groups", [None, 2, 1])
def test_weights_times_values_are_what_the_layer_gives(groups: int | None, cross: bool) -> None:
    if cross:
        block = Block(Attention(4, causal=True), cross=Attention(4, kv_heads=groups, cross=True))
        model: Any = EncoderDecoder(TokenEmbed(30, WIDTH), Stack(repeats=1), Stack(block, repeats=1))
        path, s = "decoder.0.cross", 5
    else:
        model, path, s = made(Attention(4, kv_heads=groups, causal=True), repeats=1), "stack.0.mixer", 6
    params = parameters(model)
    _, state = model.apply(
        {"params": params}, BATCH, capture_intermediates=lambda module, _: module.name in ("value", "out")
    )
    layer, own = state["intermediates"], params
    for name in path.replace(".0.", "/layer_0/").split("/"):
        layer, own = layer[name], own[name]
    g = groups or 4
    values = layer["value"]["__call__"][0].repeat(4 // g, axis=1)
    assert values.shape == (2, 4, s, WIDTH // 4)
    weights = seen(model, params)[path]
    mixed = jnp.einsum("bhts,bhsk->bthk", weights, values).reshape(-1, WIDTH) @ own["out"]["kernel"]
    np.testing.assert_allclose(mixed, layer["out"]["__call__"][0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.represented_by("full")
@pytest.mark.parametrize("remat", [None, "full"])
def test_a_scanned_stack_gives_what_the_same_stack_gives_as_a_loop(remat: str | None) -> None:
    model = crossed(remat=remat)
    params = parameters(model)
    folded = params | {name: scanned(params[name], getattr(model, name)) for name in ("encoder", "decoder")}
    loop, scan = seen(model, params), seen(crossed(True, remat), folded)
    assert set(loop) == set(scan)
    for name, weights in loop.items():
        np.testing.assert_allclose(weights, scan[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_pattern_of_several_blocks_is_counted_through() -> None:
    pattern = (Block(Attention(2), feedforward=None), Block(Attention(4), feedforward=None))
    model = Transformer(
        TokenEmbed(30, WIDTH), Stack(pattern, repeats=2, scan=True, prefix=(Block(Attention(1), feedforward=None),))
    )
    found = seen(model)
    heads = {name.split(".")[1]: weights.shape[1] for name, weights in found.items()}
    assert heads == {"0": 1, "1": 2, "2": 4, "3": 2, "4": 4}


def test_a_step_is_the_same_program_whether_or_not_somebody_looks() -> None:
    model = dataclasses.replace(made(FORMS["causal"], scan=True), head=LogitsHead())
    optimizer = SGD(Constant(0.1)).build(1, parameters(model))
    state, step = initialise(parameters(model), optimizer, 0), make_step(model, NextToken(), optimizer)
    before = jax.make_jaxpr(step)(state, BATCH)
    seen(model, state.params)
    after, shapes = jax.make_jaxpr(step)(state, BATCH), jax.eval_shape(step, state, BATCH)
    assert str(after) == str(before)
    assert len(after.out_avals) == len(jax.tree.leaves(shapes))
    assert set(shapes[1]) == {"loss", "accuracy", "gradient_norm"}
    watched = jax.make_jaxpr(lambda state: attention_weights(model, state.params, BATCH))(state)
    assert {aval.shape for aval in watched.out_avals} == {(2, 4, 6, 6)}
