"""Which axes of parameters products sum over: of classes of one's own, and of every vector of every component."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models import (
    MLP,
    Block,
    ClassHead,
    Context,
    LogitsHead,
    PreNorm,
    QueryEmbed,
    RMSNorm,
    Stack,
    TokenEmbed,
    Transformer,
)
from models.parametrization import initialised, roles
from models.paths import path_name
from models.products import trace_sums
from models.roles import Growth, Role, Roles
from tests.laws.components import arguments, component_classes, forms_of
from train.optimizers import AdamW, Constant

WIDTHS = (64, 256, 1024)
BATCH = {"tokens": jnp.asarray(np.random.default_rng(0).integers(0, 11, (4, 6)), jnp.int32)}


def vector(module: nn.Module, x: jax.Array, name: str = "vector") -> jax.Array:
    return module.param(name, nn.initializers.normal(0.1), (x.shape[-1],))


class Own(nn.Module):
    """A stranger's layer, by what it does with a vector of the stream's width."""

    way: str

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        w, d = vector(self, x), x.shape[-1]
        if self.way == "product":
            return (x @ w)[..., None] * jnp.ones(d)
        if self.way == "einsum":
            return jnp.einsum("btd,d->bt", x, 2 * w)[..., None] * jnp.ones(d)
        if self.way == "summed":
            return (x * w.astype(x.dtype)).sum(-1, keepdims=True) * jnp.ones(d)
        if self.way == "heads":
            return jnp.repeat((x.reshape(*x.shape[:2], 2, -1) * w.reshape(2, -1)).sum(-1), d // 2, axis=-1)
        if self.way == "mean":
            return (x * w).mean(-1, keepdims=True) * jnp.ones(d)
        if self.way == "halved":
            return 0.5 * (x * w).sum(-1, keepdims=True) * jnp.ones(d)
        if self.way == "gate":
            return x * nn.sigmoid(w)
        if self.way == "before a matrix":
            return nn.Dense(d, name="out")(x * w)
        if self.way == "normalised twice":
            y = w * x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True))
            return y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-6)
        return x + w


def growth(layer: Any, scan: bool = False, remat: str | None = None, width: int = 32) -> Growth:
    stack = Stack(Block(layer, None, PreNorm(RMSNorm())), 2, scan=scan, remat=remat)
    model = Transformer(TokenEmbed(11, width), stack, LogitsHead(), parametrization="mup", base_width=16, base_depth=2)
    found = {path_name(path): role for path, role in jax.tree_util.tree_leaves_with_path(roles(model, BATCH))}
    return next(role.growth for path, role in found.items() if path.endswith("mixer/vector"))


@pytest.mark.parametrize("way", ["product", "einsum", "summed", "halved", "heads"])
def test_a_vector_that_products_sum_over_is_a_matrix_of_one_column(way: str) -> None:
    assert growth(Own(way)) == Growth(2, 1, readout=True)


@pytest.mark.parametrize("way", ["mean", "gate", "before a matrix", "normalised twice", "added"])
def test_a_vector_that_acts_element_by_element_is_one(way: str) -> None:
    assert growth(Own(way)) == Growth(1, 2)


@pytest.mark.parametrize("around", [{"scan": True}, {"remat": "full"}, {"scan": True, "remat": "dots"}])
def test_sums_are_read_through_scans_and_rematerialisation(around: Any) -> None:
    assert growth(Own("product"), **around) == Growth(2, 1, readout=True)


class Declared(Own):
    """The same product, divided by the width, which it says."""

    roles: ClassVar[Roles] = {"vector": Role(inputs=())}


class Hidden(nn.Module):
    """A vector of which nobody can read what becomes of it."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return x * jnp.sort(vector(self, x))


def test_a_class_says_what_cannot_be_read_and_is_asked_to() -> None:
    assert growth(Declared("product")) == Growth(1, 2)
    with pytest.raises(ValueError, match=r"cannot read how the vector stack/layer_0/mixer/vector is used; declare it"):
        growth(Hidden())


def test_a_kernel_is_read_whichever_way_it_stands() -> None:
    d = 8

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return (x @ params["kernel"] @ params["turned"].T) @ (params["low"] @ params["rank"])

    shapes = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in kernels(d).items()}
    found, lost = trace_sums(apply, shapes, jax.ShapeDtypeStruct((2, d), jnp.float32))
    assert found == {"kernel": {-2}, "turned": {-1}, "low": {-1, -2}, "rank": {-2}}
    assert not any(lost.values())


def kernels(d: int) -> dict[str, tuple[int, ...]]:
    return {"kernel": (d, d), "turned": (d, d), "low": (d, 2), "rank": (2, d)}


# Vectors of a width that grows in products that sum over it; kernels of two axes or more are summed over their last
# axis but one.
VECTORS = {
    "AttentionResiduals": {"query"},
    "HyperConnections": {"read_weight", "write_weight"},
    "RWKV7": {"bonus"},
}
# By the component, or of a width that never grows.
SCALED = {
    "CoPE": {"table"},
    "DifferentialAttention": {"query_weight", "key_weight"},
    "Engram": {"norm/scale", "key_norm/scale"},
    "LogitsHead": {"table"},
    "PEER": {"halves"},
    "ProductKeyMemory": {"halves"},
    "TTTLinear": {"inner_norm_scale"},
}
SIDEWAYS = {"DenseFormer", "HyperConnections", "StochasticDepth"}  # sums over streams, not over the width


def sums(form: Any) -> dict[str, tuple[tuple[int, ...], frozenset[int]]]:
    given = arguments(form)
    leaves, tree = jax.tree.flatten(given)
    arrays = [leaf for leaf in leaves if hasattr(leaf, "shape")]

    def apply(params: Any, arrays: Any) -> Any:
        left = iter(arrays)
        whole = tree.unflatten([next(left) if hasattr(leaf, "shape") else leaf for leaf in leaves])
        return form.apply({"params": params}, *whole, mutable=["losses", "metrics", "cache"])

    params = jax.eval_shape(lambda: form.init(jax.random.key(0), *given)).get("params", {})
    found = jax.tree.leaves(trace_sums(apply, params, arrays)[0], is_leaf=lambda leaf: isinstance(leaf, frozenset))
    paths = jax.tree_util.tree_leaves_with_path(params)
    return {path_name(path): (leaf.shape, axes) for (path, leaf), axes in zip(paths, found, strict=True)}


@pytest.mark.parametrize(
    "owner",
    [
        pytest.param(
            owner,
            id=owner.__name__,
            marks=() if owner.__name__ in (*VECTORS, *SCALED, "MLP", "Experts") else pytest.mark.slow,
        )
        for owner in component_classes()
        if not issubclass(owner, Stack | Transformer) and owner.__name__ != "EncoderDecoder"
    ],
)
def test_products_of_every_component_sum_over_the_last_axis_but_one_except_these(owner: Any) -> None:
    name, found = owner.__name__, {}
    for form in forms_of(owner).values():
        found |= sums(form)
    beyond = {path for path, (shape, axes) in found.items() if axes - {-2} and shape[-1] > 1}
    expected = VECTORS.get(name, set()) | SCALED.get(name, set())
    assert {path for path in beyond if name not in SIDEWAYS or path in expected} == expected


class Score(nn.Module):
    """x . w, by itself so that it can be looked at."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ vector(self, x)


class AttentionPool(nn.Module):
    """The mean of all tokens by softmax(x . w): what its scores are decides which of them count."""

    @nn.compact
    def __call__(self, hidden: jax.Array, ctx: Context) -> jax.Array:
        return jnp.einsum("bt,btd->bd", jax.nn.softmax(Score(name="score")(hidden)), hidden)


def pooled(width: int) -> Transformer:
    stack = Stack(Block(MLP(1.0), None, PreNorm(RMSNorm())), 1, norm=RMSNorm())
    return Transformer(
        TokenEmbed(11, width), stack, ClassHead(3, AttentionPool()), parametrization="mup", base_width=64, base_depth=1
    )


def score_size(width: int, steps: int = 6) -> float:
    """The root mean square of the scores after a few steps towards classes."""
    model = pooled(width)
    params = initialised(model, jax.random.key(0), BATCH)["params"]
    transform = AdamW(Constant(0.003), decay=0.0, clip=None).build(steps, params, roles(model, BATCH))
    state, scores = transform.init(params), jnp.zeros(())

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        logits, sown = model.apply(
            {"params": params}, BATCH, capture_intermediates=lambda module, _: isinstance(module, Score)
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(4) % 3).mean(), jax.tree.leaves(
            sown["intermediates"]
        )[0]

    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any, jax.Array]:
        grads, scores = jax.grad(loss, has_aux=True)(params)
        updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state, scores

    for _ in range(steps):
        params, state, scores = step(params, state)
    return float(jnp.sqrt(jnp.mean(jnp.square(scores))))


def test_a_vector_that_gives_scores_starts_and_learns_as_what_leads_from_the_width() -> None:
    assert roles(pooled(256), BATCH)["head"]["pool"]["score"]["vector"].growth == Growth(4, 1, readout=True)


@pytest.mark.slow
def test_scores_of_a_vector_keep_their_size_over_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    def slope() -> float:
        return float(np.polyfit(np.log2(WIDTHS), np.log2([score_size(width) for width in WIDTHS]), 1)[0])

    assert abs(slope()) < 0.2
    monkeypatch.setattr(Score, "roles", {"vector": Role(inputs=())}, raising=False)  # what each vector was taken for
    assert slope() > 0.5


def test_queries_that_a_model_starts_from_are_no_kernel() -> None:
    model = Transformer(QueryEmbed(3, 32), Stack(Block(MLP(), None), 1), parametrization="mup", base_width=16)
    assert roles(model, BATCH)["embed"]["query"].growth == Growth(1, 2)
