"""Laws of attention's implementations: the same values and gradients as the definition, chosen by platform and call."""

import collections
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from models import Attention, Context, DifferentialAttention, LatentAttention, Memory, Sigmoid, Softmax
from models.attention import core
from models.attention.core import Reach, Tokens, attend
from models.attention.relative import ALiBi
from models.backend import kernels
from models.backend.implementation import Call, Implementation, choose_implementation, explain_refusal
from models.backend.platform import compile_for, platform
from models.inspect.attention import attention_weights
from tests.laws.attended import BATCH, made
from tests.laws.components import normal
from tests.laws.kernels import NAMED, equations, gradient, kernel_calls, segments
from train.parallel import Mesh

X = normal(0, 2, 256, 16)


@dataclasses.dataclass(frozen=True)
class Case:
    """A call of `attend`: t queries and s sources (t where None), heads and groups, widths, reach, segments, a cap."""

    reach: Reach = Reach()
    t: int = 200
    s: int | None = None
    heads: int = 2
    groups: int = 2
    width: int = 8
    value: int = 8
    segments: str = ""
    cap: float | None = None
    aligned: bool = False  # positions are the indices, and are known to be


CASES = {
    "causal": Case(Reach(True), heads=4),
    "causal of 128": Case(Reach(True), t=128, segments="packed"),
    "odd": Case(t=131, width=5, value=5),
    "packed and padded": Case(Reach(True), segments="padded"),
    "both ways, padded": Case(segments="padded", heads=4, groups=1),
    "window": Case(Reach(True, 20), t=300, segments="packed", groups=1),
    "window both ways": Case(Reach(False, 20), t=300),
    "window of all": Case(Reach(True, 500), t=130),
    "chunk": Case(Reach(False, None, 60)),
    "aligned chunk": Case(Reach(False, None, 60), aligned=True),
    "causal chunk, padded": Case(Reach(True, None, 140), t=280, segments="padded"),
    "causal chunk, packed": Case(Reach(True, None, 30), t=280, segments="packed", groups=1),
    "chunk, packed": Case(Reach(False, None, 30), segments="packed"),
    "chunk of more than the row": Case(Reach(False, None, 300), segments="packed"),
    "capped": Case(Reach(True), cap=1.0, heads=4, groups=2),
    "wider values": Case(Reach(True), t=150, width=6, value=12),
    "narrower values": Case(t=128, width=12, value=8, segments="packed"),
    "cross": Case(t=70, s=300, groups=1),
    "cross, padded": Case(t=140, s=130, segments="padded"),
}


def places(rows: jax.Array | None, length: int) -> jax.Array:
    """Positions that count from the first token of each example."""
    if rows is None:
        return jnp.arange(length)[None]
    same = np.asarray(rows)[:, :, None] == np.asarray(rows)[:, None]
    return jnp.arange(length) - same.argmax(-1)


def values(
    case: Case, implementation: Implementation, everywhere: bool = False
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Outputs of attention and gradients of query, key and value.

    The cotangent is zero at padding, or nowhere.
    """
    t, s = case.t, case.s or case.t
    shapes = ((case.heads, t, case.width), (case.groups, s, case.width), (case.groups, s, case.value))
    given = tuple(normal(seed, 2, *shape) for seed, shape in enumerate(shapes))
    rows = segments(case.segments, t)
    own = Tokens(jnp.arange(t)[None], places(None if case.aligned else rows, t), rows, case.aligned)
    other = None if case.s is None else Tokens(jnp.arange(s)[None], jnp.arange(s)[None], segments(case.segments, s))
    real = jnp.ones((2, t), bool) if own.segments is None or everywhere else own.segments > 0
    cotangent = jnp.where(real[:, None, :, None], normal(9, 2, case.heads, t, case.value), 0.0)

    class Core(nn.Module):
        @nn.compact
        def __call__(self, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
            scale = case.width**-0.5
            return attend(
                query, key, value, own, other, case.reach, Softmax(case.cap), scale, implementation=implementation
            )

    def run(given: tuple[jax.Array, ...]) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        mixed, back = jax.vjp(lambda *parts: jnp.asarray(Core().apply({}, *parts)), *given)
        return jnp.where(real[:, None, :, None], mixed, 0.0), back(cotangent)

    return jax.jit(run)(given)


@functools.cache
def defined(name: str) -> Any:
    return values(CASES[name], "xla")


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks as short as can be, so that short rows have several."""
    monkeypatch.setattr(kernels, "BLOCK", 128)


def law_implementation_is_the_definition(name: str, implementation: Implementation) -> None:
    for found, expected in zip(
        jax.tree.leaves(values(CASES[name], implementation)), jax.tree.leaves(defined(name)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("implementation", ["fused", "splash"])
@pytest.mark.slow
def test_values_and_gradients_are_those_of_the_definition(name: str, implementation: Implementation) -> None:
    if implementation == "fused" and CASES[name].cap is not None:
        with pytest.raises(ValueError, match="no bound of scores"):
            values(CASES[name], implementation)
    else:
        law_implementation_is_the_definition(name, implementation)


def blind(query: Any, key: Any, value: Any, segments: Any, *rest: Any) -> jax.Array:
    """Broken: sees other segments."""
    return kernels.attend_splash(query, key, value, None, *rest)


def wide(query: Any, key: Any, value: Any, segments: Any, causal: bool, window: int, *rest: Any) -> jax.Array:
    """Broken: sees one token too far."""
    return kernels.attend_splash(query, key, value, segments, causal, window + 1, *rest)


@pytest.mark.slow
@pytest.mark.represented_by("window-wide")
@pytest.mark.parametrize(("name", "broken"), [("packed and padded", blind), ("window", wide)])
def test_a_kernel_that_sees_too_much_fails(
    name: str, broken: Callable[..., jax.Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "attend_splash", broken)
    with pytest.raises(AssertionError):
        law_implementation_is_the_definition(name, "splash")


@pytest.mark.parametrize("name", ["packed and padded", "cross, padded"])
def test_gradients_from_padding_are_finite(name: str) -> None:
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(values(CASES[name], "splash", everywhere=True)))


@pytest.mark.represented_by("splash")
@pytest.mark.parametrize("implementation", get_args(Implementation))
def test_queries_that_see_nothing_get_zeros_and_pass_nothing_back(implementation: Implementation) -> None:
    """Half of the queries are of an example that has no sources."""
    own = Tokens(jnp.arange(64)[None], jnp.arange(64)[None], jnp.repeat(jnp.array([[1, 2]]), 32, axis=1))
    other = Tokens(jnp.arange(70)[None], jnp.arange(70)[None], jnp.ones((1, 70), jnp.int32))

    class Core(nn.Module):
        @nn.compact
        def __call__(self, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
            return attend(query, key, value, own, other, Reach(), Softmax(), 0.5, implementation=implementation)

    given = (normal(1, 1, 2, 64, 8), normal(2, 1, 2, 70, 8), normal(3, 1, 2, 70, 8))
    mixed, back = jax.vjp(lambda *parts: jnp.asarray(Core().apply({}, *parts)), *given)
    assert (np.asarray(mixed)[:, :, 32:] == 0).all()
    assert (np.asarray(mixed)[:, :, :32] != 0).all()
    unseen = back(jnp.where(jnp.arange(64)[:, None] < 32, 0.0, jnp.ones_like(mixed)))
    assert all((np.asarray(leaf) == 0).all() for leaf in unseen)


LAYERS = {
    "attention": Attention(2, causal=True, kv_heads=1, gate=True),
    "latent": LatentAttention(2, 8, 4, causal=True),
    "differential": DifferentialAttention(1, causal=True, window=50),
}


@pytest.mark.represented_by("attention")
@pytest.mark.parametrize("name", LAYERS)
def test_layers_give_the_same_by_every_implementation(name: str) -> None:
    layer, ctx = LAYERS[name], Context(segments=segments("packed", 140))
    x = X[:, :140]
    params = layer.init(jax.random.key(1), x, ctx)
    for implementation in ("fused", "splash"):
        other = dataclasses.replace(layer, implementation=implementation)
        assert used(other, x, ctx) == {implementation}
        found, expected = (jax.jit(lambda params, one=one: one.apply(params, x, ctx))(params) for one in (other, layer))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def used(layer: Any, x: jax.Array, ctx: Context) -> set[str]:
    """The implementations that a layer's jaxpr names."""
    params = jax.eval_shape(layer.init, jax.random.key(0), x, ctx)
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, x.dtype), params)
    jaxpr = jax.make_jaxpr(lambda params, x: layer.apply(params, x, ctx, rngs={"dropout": jax.random.key(0)}))(
        params, x
    )
    stacks = [str(equation.source_info.name_stack) for equation in equations(jaxpr.jaxpr)]
    return {
        part.removeprefix("attention_")
        for stack in stacks
        for part in stack.split("/")
        if part.startswith("attention_")
    }


HALF = X.astype(jnp.bfloat16)


@pytest.mark.parametrize(
    ("layer", "on_tpu", "on_gpu"),
    [
        (Attention(2), "splash", "fused"),
        (Attention(2, causal=True, window=16, qk_norm=None), "splash", "fused"),
        (Attention(2, weigh=Softmax(30.0)), "splash", "xla"),
        (Attention(2, chunk=128), "xla", "fused"),
        (Attention(2, weigh=Softmax(sink=True)), "xla", "xla"),
        (Attention(2, weigh=Sigmoid()), "xla", "xla"),
        (Attention(2, relative=ALiBi()), "xla", "xla"),
        (Attention(2, dropout=0.1), "splash", "fused"),
        (Attention(2, head_width=264), "xla", "xla"),
        (Attention(2, head_width=136), "splash", "xla"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value.__class__.__name__),
)
def test_the_platform_and_the_call_choose(
    layer: Attention, on_tpu: str, on_gpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert used(layer, HALF, Context()) == {"xla"}
    with compile_for("tpu"):
        assert used(layer, HALF, Context()) == {on_tpu}
        assert used(layer, HALF[:, :255], Context()) == {"xla"}
    # cuDNN's kernel is asked about at tracing, where there is none
    monkeypatch.setattr(kernels.jax.nn, "dot_product_attention", lambda query, *rest, **options: jnp.sin(query))
    with compile_for("gpu"):
        assert used(layer, HALF, Context()) == {on_gpu}
        assert used(layer, X, Context()) == {"xla"}  # float32


def test_what_is_traced_for_another_platform_says_so_and_then_no_more() -> None:
    assert platform() == "cpu"
    with compile_for("tpu"), compile_for("gpu"):
        assert platform() == "gpu"
    assert platform() == "cpu"


def test_active_dropout_of_weights_decoding_and_weights_that_are_looked_at_are_xla() -> None:
    with compile_for("tpu"):
        assert used(Attention(2, dropout=0.1), X, Context(train=True)) == {"xla"}
        assert used(Attention(2, cross=True), X, Context(memory=Memory(X[:, :100]))) == {"xla"}  # few sources
        assert used(Attention(2, cross=True), X, Context(memory=Memory(X))) == {"splash"}
    model = made(Attention(4, causal=True, implementation="splash"))
    params = model.init(jax.random.key(0), BATCH)["params"]
    assert set(attention_weights(model, params, BATCH)) == {"stack.0.mixer", "stack.1.mixer"}


@pytest.mark.parametrize(
    ("layer", "ctx", "sentence"),
    [
        (
            Attention(2, dropout=0.1, implementation="splash"),
            Context(train=True),
            "'splash' cannot compute this: it has no dropout of weights",
        ),
        (
            Attention(2, relative=ALiBi(), implementation="fused"),
            Context(),
            "it has no relative positions; give 'xla', or None",
        ),
        (Attention(2, weigh=Softmax(sink=True), implementation="splash"), Context(), "it has no sink"),
        (Attention(2, weigh=Sigmoid(), implementation="splash"), Context(), "it has no weights but softmax's"),
        (
            Attention(2, head_width=300, implementation="splash"),
            Context(),
            "its heads are 256 wide at most, and these are 300",
        ),
    ],
)
def test_one_that_cannot_compute_a_call_says_what_it_lacks(layer: Attention, ctx: Context, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        layer.init({"params": jax.random.key(0), "dropout": jax.random.key(0)}, X, ctx)


CALL = Call(length=1024, width=64, dtype="bfloat16")


@pytest.mark.parametrize(
    ("implementation", "changes", "on", "reason"),
    [
        ("splash", {}, "tpu", None),
        ("splash", {}, "gpu", "it runs on TPU, and interpreted on CPU, and this is gpu"),
        ("splash", {"dtype": "float16"}, "tpu", "it takes float32 or bfloat16, and this is float16"),
        ("splash", {"kind": "TPU v3"}, "tpu", "a TPU v3 multiplies no bfloat16 in kernels"),
        ("splash", {"kind": "TPU v3", "dtype": "float32"}, "tpu", None),
        ("splash", {"kind": "TPU v4"}, "tpu", None),
        ("fused", {"dtype": "float32"}, "gpu", "on GPU it takes float16 or bfloat16, and this is float32"),
        ("fused", {"dtype": "float32"}, "cpu", None),
        ("fused", {"width": 256}, "gpu", "on GPU its heads are 128 wide at most, and these are 256"),
        (
            "fused",
            {"masked": True, "even": False},
            "gpu",
            "on GPU it hides tokens in rows of even length only, and these are odd",
        ),
        (
            "fused",
            {"capability": "7.5"},  # a T4's
            "gpu",
            "it runs on NVIDIA's GPUs of compute capability 8.0 or more, and this one's is 7.5",
        ),
        (
            "fused",
            {"capability": "gfx942"},
            "gpu",
            "it runs on NVIDIA's GPUs of compute capability 8.0 or more, and this one's is gfx942",
        ),
        ("fused", {"capability": "10.0"}, "gpu", None),
        ("xla", {"special": ("sink",)}, "tpu", None),
    ],
)
def test_what_an_implementation_lacks(
    implementation: Implementation, changes: Any, on: str, reason: str | None
) -> None:
    call = dataclasses.replace(CALL, **changes)
    assert explain_refusal(implementation, call, on) == reason
    if reason is None:
        assert choose_implementation(call, implementation, on) == implementation
    else:
        assert choose_implementation(call, None, on) != implementation


def test_a_name_that_there_is_none_of_is_refused() -> None:
    wrong: Any = "flash"
    with pytest.raises(ValueError, match="'flash'; give one of xla, fused, splash, or None to choose"):
        choose_implementation(CALL, wrong, "tpu")


@pytest.mark.slow
@pytest.mark.parametrize("rows", [8, 3])
def test_a_mesh_of_eight_devices_gives_what_one_gives(rows: int) -> None:
    layer, mesh = Attention(2, causal=True, implementation="splash"), Mesh(data=4, fsdp=2)
    batch = {
        "x": np.asarray(normal(3, rows, 130, 16)),
        "segments": np.repeat(np.asarray(segments("padded", 130))[:1], rows, 0),
    }
    params = layer.init(jax.random.key(0), batch["x"], Context())
    compute = mesh.compile_evaluation(lambda params, batch: gradient(layer, params, batch))
    placed = mesh.put(batch) if rows == 8 else batch
    traced = jax.make_jaxpr(compute)(params, placed).jaxpr
    forward = next(equation.params["in_specs"] for equation in equations(traced) if "in_specs" in equation.params)
    assert (PartitionSpec(("data", "fsdp")) in forward) == (rows == 8)
    one = jax.jit(lambda params: gradient(layer, params, batch))(params)
    for found, expected in zip(
        jax.tree.leaves(compute(mesh.spread(params), placed)), jax.tree.leaves(one), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_devices_of_a_pmap_have_their_kernels_already() -> None:
    layer = Attention(2, causal=True, implementation="splash")
    batch = {"x": normal(3, 8, 1, 64, 16), "segments": jnp.ones((8, 1, 64), jnp.int32)}
    params = layer.init(jax.random.key(0), batch["x"][0], Context())
    _, found = jax.pmap(lambda params, batch: gradient(layer, params, batch), in_axes=(None, 0))(params, batch)
    _, expected = jax.jit(lambda params: gradient(layer, params, jax.tree.map(lambda leaf: leaf[5], batch)))(params)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one[5], other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scan", [False, True], ids=["looped", "scanned"])
@pytest.mark.parametrize("meshed", [False, True], ids=["one device", "mesh"])
def test_a_policy_that_keeps_the_context_runs_each_kernel_once(scan: bool, meshed: bool) -> None:
    layers = 1 if scan else 2
    assert kernel_calls(NAMED, scan, meshed) == 2 * layers  # forward and backward
    assert kernel_calls(None, scan, meshed) == 3 * layers  # the forward one again


def test_every_implementation_names_its_context() -> None:
    for implementation in ("xla", "fused", "splash"):
        layer = Attention(2, causal=True, implementation=implementation)
        jaxpr = jax.make_jaxpr(lambda x, layer=layer: layer.init_with_output(jax.random.key(0), x, Context())[0])(X)
        names = collections.Counter(
            equation.params["name"] for equation in equations(jaxpr.jaxpr) if equation.primitive.name == "name"
        )
        assert set(names) == {kernels.SAVED}
