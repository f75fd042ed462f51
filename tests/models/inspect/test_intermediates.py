"""Intermediate values by path: the same for every form of stack, as their equations say, and replaced where told."""

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
    MixtureOfDepths,
    RMSNorm,
    RoPE,
    SharedAttention,
    Stack,
    TokenEmbed,
    Transformer,
    generate,
    scanned,
)
from models.context import Context, Decoding
from models.contracts import Batch, Tree
from models.decoding.sampling import advance, prefill
from models.inspect.intermediates import Patched, by_depth, capture, patch, select_paths, trace
from models.laws.inputs import random_like
from models.projection import TOGETHER

BATCH = {"tokens": jnp.asarray(np.random.default_rng(0).integers(0, 30, (2, 6)))}
PATTERN = (Block(Attention(4, causal=True), MLP(2.0)), Block(Attention(2, causal=True, position=RoPE()), None))
PREFIX = (Block(MLP(1.0), None),)


def build(**fields: Any) -> Transformer:
    stack = Stack(PATTERN, repeats=2, norm=RMSNorm(), prefix=PREFIX, **fields)
    return Transformer(TokenEmbed(30, 16), stack, LogitsHead())


LOOP, SCAN, TIED = build(), build(scan=True, remat="full"), build(tied=True)
BLOCKS = [f"stack.{number}" for number in range(5)]


def initialise(model: Any, batch: Batch = BATCH) -> Tree:
    return random_like(jax.eval_shape(model.init, jax.random.key(0), batch)["params"])


@pytest.fixture(scope="module")
def params() -> Tree:
    return initialise(LOOP)


def fold(params: Tree) -> Tree:
    return {**params, "stack": scanned(params["stack"], LOOP.stack)}


def captured(model: Any, params: Tree, *patterns: str, batch: Batch = BATCH) -> dict[str, Tree]:
    """In one program, whose results come by letter."""
    values = jax.jit(lambda params: capture(model, params, batch, *patterns))(params)
    return {path: values[path] for path in sorted(values, key=by_depth)}


def assert_equal(left: dict[str, Tree], right: dict[str, Tree]) -> None:
    assert list(left) == list(right)
    for path, value in left.items():
        jax.tree.map(
            lambda a, b, path=path: np.testing.assert_allclose(a, b, atol=1e-5, err_msg=path), value, right[path]
        )


def test_a_scanned_stack_has_the_values_of_the_loop(params: Tree) -> None:
    loop = captured(LOOP, params, "", "**", "**:input")
    assert_equal(captured(SCAN, fold(params), "", "**", "**:input"), loop)
    assert select_paths(["stack.[0-9]*"], loop) == BLOCKS
    assert select_paths(["stack.[12].mixer", "em*"], loop) == ["embed", "stack.1.mixer", "stack.2.mixer"]
    assert {path for path in loop if path.endswith(".weigh")} == {f"{block}.mixer.weigh" for block in BLOCKS[1:]}


@pytest.mark.slow
def test_a_tied_stack_has_the_values_of_a_loop_with_its_parameters() -> None:
    params = initialise(TIED)
    blocks = params["stack"]["tied"]
    inner = {f"layer_{number}": blocks[f"block_{number % 2}"] for number in range(4)}
    rest = {name: value for name, value in params["stack"].items() if name != "tied"}
    assert_equal(captured(TIED, params, "**"), captured(LOOP, {**params, "stack": rest | inner}, "**"))


@pytest.mark.slow
def test_values_are_those_of_the_equations(params: Tree) -> None:
    values = {
        path: np.asarray(value) for path, value in captured(LOOP, params, "", "**", "stack.1.mixer.out:input").items()
    }
    x = np.asarray(params["embed"]["token"])[BATCH["tokens"]]
    np.testing.assert_array_equal(values["embed"], x)
    for block in BLOCKS:
        x = x + values[f"{block}.mixer"] + values.get(f"{block}.feedforward", 0)
        np.testing.assert_allclose(values[block], x, atol=1e-6)
    out = values["stack.1.mixer.out:input"] @ np.asarray(params["stack"]["layer_0"]["mixer"]["out"]["kernel"])
    np.testing.assert_allclose(out, values["stack.1.mixer.out"], atol=1e-5)
    weights = values["stack.1.mixer.weigh"]
    mixed = np.einsum("bhts,bhsk->bthk", weights, values["stack.1.mixer.value"]).reshape(12, 16)
    np.testing.assert_allclose(mixed, values["stack.1.mixer.out:input"], atol=1e-5)
    np.testing.assert_array_equal(values["head"], values[""])


def zero_head(weights: jax.Array) -> jax.Array:
    return weights.at[:, 1].set(0)


CHANGES: dict[str, dict[str, Any]] = {
    "one": {"stack.3.mixer": jnp.zeros_like},
    "all": {"stack.*.mixer": lambda y: 2 * y, "stack.0:input": lambda x: x + 1},
    "several": {
        "stack.1.mixer.weigh": zero_head,
        "stack.3": np.ones((2, 6, 16), np.float32),
        "stack.4.mixer:input": jnp.sin,
    },
}


@pytest.mark.represented_by("several")
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_acts_on_its_layer_of_a_scanned_stack(params: Tree, name: str) -> None:
    plain, loop = jax.jit(
        lambda params: (LOOP.apply({"params": params}, BATCH), patch(LOOP, params, BATCH, CHANGES[name]))
    )(params)
    scan = jax.jit(lambda params: patch(SCAN, params, BATCH, CHANGES[name]))(fold(params))
    np.testing.assert_allclose(loop, scan, atol=1e-5)
    assert np.abs(loop - plain).max() > 1e-2


@pytest.mark.slow
def test_changes_are_mapped_and_have_gradients(params: Tree) -> None:
    value = captured(SCAN, fold(params), "stack.2")["stack.2"]
    normal = np.random.default_rng(1).standard_normal(value.shape).astype(np.float32)

    def end(step: jax.Array) -> jax.Array:
        return jnp.sin(patch(SCAN, fold(params), BATCH, {"stack.2": value + step * normal})).sum()

    def plain() -> Tree:
        return LOOP.apply({"params": params}, BATCH)

    steps = jnp.asarray([-1e-2, 0, 1e-2])
    ends = jax.jit(jax.vmap(end))(steps)
    slope = jax.jit(jax.grad(end))(0.0)
    np.testing.assert_allclose(slope, (ends[2] - ends[0]) / 2e-2, rtol=1e-2)
    np.testing.assert_allclose(ends[1], jnp.sin(plain()).sum(), rtol=1e-4)


@pytest.mark.slow
def test_calls_of_one_module_are_counted() -> None:
    decoder = Block(Attention(2, causal=True), None, cross=Attention(2, cross=True))
    model = EncoderDecoder(TokenEmbed(30, 16), Stack(Block(Attention(2), None), 1), Stack(decoder, 1))
    batch = BATCH | {"source": BATCH["tokens"][:, :4]}
    params = initialise(model, batch)
    paths = list(trace(model, {"params": params}, batch))
    assert [path for path in paths if path.startswith("embed@") and ":" not in path] == ["embed@0", "embed@1"]
    shapes = {path: value.shape for path, value in captured(model, params, "embed@*", batch=batch).items()}
    assert shapes == {"embed@0": (2, 4, 16), "embed@1": (2, 6, 16)}

    def changed(path: str) -> jax.Array:
        return patch(model, params, batch, {path: jnp.zeros_like, "decoder.0.cross": jnp.zeros_like})

    np.testing.assert_array_equal(changed("embed@0"), changed("encoder"))  # what nothing reads any more
    assert np.abs(changed("embed@0") - changed("embed@1")).max() > 1e-2
    with pytest.raises(LookupError, match="'embed' matches no .*did you mean 'embed@"):
        capture(model, params, batch, "embed")


@pytest.mark.slow
def test_a_class_that_calls_its_parent_and_a_repeat_that_is_traced_apart_count_once() -> None:
    shared = Block(SharedAttention(2, causal=True), None)
    model = Transformer(TokenEmbed(30, 16), Stack(shared, 2, prefix=(MixtureOfDepths(capacity=0.5),), scan=True))
    paths = [path for path in trace(model, {"params": initialise(model)}, BATCH) if path.count(".") < 2]
    assert [path for path in paths if ":" not in path] == ["", "embed", "embed.drop", "stack", *BLOCKS[:3]]


@pytest.mark.slow
def test_a_model_within_the_model_is_left_alone() -> None:
    plain = Transformer(TokenEmbed(30, 16), Stack(PATTERN[1], 1))
    params = initialise(plain)
    change = {"stack.0.mixer": jnp.zeros_like}
    found = patch(plain.clone(head=Taught()), params, BATCH, change)
    assert isinstance(found, jax.Array)
    np.testing.assert_allclose(found, patch(plain, params, BATCH, change) + teach(), atol=1e-5)


@pytest.mark.slow
def test_heads_are_there_for_many_tokens_too() -> None:
    model = Transformer(TokenEmbed(30, 16), Stack(Block(Attention(2), None), 1))
    batch = {"tokens": jnp.zeros((1, TOGETHER), int)}
    params = initialise(model, batch)
    assert np.abs(patch(model, params, batch, {"**.value": jnp.zeros_like})
                  - model.apply({"params": params}, batch)).max() > 1e-2  # fmt: skip


@pytest.mark.slow
def test_decoding_has_the_values_of_one_pass_and_takes_changes() -> None:
    model = Transformer(TokenEmbed(30, 16), Stack(Block(Attention(2, causal=True)), 2, scan=True), LogitsHead())
    params = initialise(model)
    batch = {"tokens": BATCH["tokens"], "positions": jnp.broadcast_to(jnp.arange(6), (2, 6))}
    first, last = ({name: value[:, part] for name, value in batch.items()} for part in (slice(5), slice(5, 6)))
    _, cache = prefill(model, params, first, 6)
    step = capture(model, params, last, "stack.*", cache=cache, decoding=Decoding(jnp.asarray(5), 6, False))
    for path, value in captured(model, params, "stack.*", batch=batch).items():
        np.testing.assert_allclose(step[path], value[:, 5:], atol=1e-5)
    changed = Patched(model, {"stack.1.mixer": lambda y: -3 * y})
    logits, _ = advance(changed, params, prefill(changed, params, first, 6)[1], last, jnp.asarray(5), 6)
    np.testing.assert_allclose(logits, changed.apply({"params": params}, batch)[:, -1], atol=1e-5)
    tokens = [list(map(int, token)) for token in generate(changed, params, first, 2)]
    assert tokens[0] == list(map(int, changed.apply({"params": params}, first)[:, -1].argmax(-1)))


def teach() -> jax.Array:
    """The outputs of a model whose paths are those of another's."""
    teacher = Transformer(TokenEmbed(30, 16), Stack(PATTERN[1], 1), parent=None)
    outputs = teacher.apply({"params": initialise(teacher)}, BATCH)
    assert isinstance(outputs, jax.Array)
    return outputs


class Taught(nn.Module):
    """A head that adds the outputs of a model that it applies by itself."""

    @nn.compact
    def __call__(self, hidden: jax.Array, ctx: Context, table: jax.Array | None) -> jax.Array:
        return hidden + teach()


class Own(nn.Module):
    """A model with a scan of its own, which keeps no intermediate values."""

    @nn.compact
    def __call__(self, batch: Batch, train: bool = False, decoding: Any = None) -> jax.Array:
        x = nn.Embed(30, 8, name="embed")(batch["tokens"])
        scan = nn.scan(Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        return scan(name="steps")(x, None)[0]


class Step(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return x + nn.Dense(8, name="dense")(x), None


def test_paths_that_cannot_be_used_are_said(params: Tree) -> None:
    cases: dict[str, str] = {
        "stack.*.mixr": r"'stack\.\*\.mixr' matches no .* did you mean 'stack.\d.mixer'\? The paths are embed, .*\.0-4",
        "stack/layer_0/mixer": "did you mean 'stack.0.mixer'",
        "stack.7.mixer": "did you mean 'stack..\\.mixer'",
        "zzz": "valid names are embed, ",
    }
    for pattern, sentence in cases.items():
        with pytest.raises(LookupError, match=sentence):
            capture(LOOP, params, BATCH, pattern)
    with pytest.raises(ValueError, match=r"'stack.3.mixer' has shape \(2, 1, 16\), and the value .* \(2, 6, 16\)"):
        patch(LOOP, params, BATCH, {"stack.3.mixer": jnp.zeros((2, 1, 16))})
    with pytest.raises(ValueError, match=r"'stack.3' is replaced by 'stack.\*' and by 'stack.3'"):
        patch(LOOP, params, BATCH, {"stack.*": jnp.sin, "stack.3": jnp.cos})


@pytest.mark.slow
def test_what_a_scan_of_another_keeps_to_itself_has_no_path() -> None:
    own = initialise(Own())
    assert [path for path in trace(Own(), {"params": own}, BATCH) if ":" not in path] == ["", "embed"]
