"""Fast forms beside their definitions: attention by some queries at a time, kernels side by side, kept derivatives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import (
    Attention,
    Context,
    DifferentialAttention,
    ForgettingAttention,
    LatentAttention,
    RMSNorm,
    RoPE,
    SharedAttention,
    Sigmoid,
    Softmax,
    ValueResidual,
    gelu,
    projection,
)
from models.attention import core
from models.attention.relative import ALiBi
from models.contracts import Tree
from tests.laws.components import normal
from tests.laws.kernels import segments
from train.cost.traced import count_flops

LAYERS = {
    "plain": Attention(2, causal=True),
    "grouped, rotary, normed": Attention(4, kv_heads=2, causal=True, position=RoPE(), qk_norm=RMSNorm(), bias=True),
    "distances": Attention(2, causal=True, relative=ALiBi()),
    "sink and cap": Attention(2, causal=True, weigh=Softmax(cap=2.0, sink=True)),
    "sigmoid": Attention(2, causal=True, weigh=Sigmoid()),
    "window of all": Attention(2, causal=True, window=10_000),
    "forgetting": ForgettingAttention(2),
    "differential": DifferentialAttention(1, causal=True),
    "latent": LatentAttention(2, 8, 4, causal=True),
    "values of the first": ValueResidual(2, causal=True),
    "shared keys": SharedAttention(2, causal=True),
    "both ways": Attention(2),
}
LENGTHS = {"three parts": 130, "parts of two blocks": 64 * core.BLOCKS + 5}


def run(layer: Any, t: int, packed: bool) -> Tree:
    """Outputs, and gradients of parameters and input."""
    x, ctx = normal(0, 2, t, 16), Context(segments=segments("packed", t) if packed else None)
    params = layer.init(jax.random.key(1), x[:, :4], Context())

    def project(params: Tree, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = layer.apply(params, x, ctx)
        y = y[0] if isinstance(y, tuple) else y
        return (y * normal(2, 2, t, 16)).sum(), y

    return jax.jit(jax.value_and_grad(project, argnums=(0, 1), has_aux=True))(params, x)


def law_equal(fast: Tree, plain: Tree) -> None:
    for left, right in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(left, right, rtol=2e-4, atol=2e-4 * float(jnp.abs(right).max()))


@pytest.mark.represented_by("three parts-plain", "parts of two blocks-forgetting", "three parts-shared keys")
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("length", LENGTHS)
def test_rows_of_queries_and_kernels_side_by_side_are_the_definition(
    name: str, length: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, t = LAYERS[name], LENGTHS[length]
    fast = run(layer, t, True), run(layer, t, False)
    monkeypatch.setattr(core, "BLOCK", 10_000)
    monkeypatch.setattr(projection, "TOGETHER", 10**9)
    law_equal(fast, (run(layer, t, True), run(layer, t, False)))


def test_counted_operations_do_not_depend_on_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = LAYERS["plain"], normal(0, 2, 200, 16)
    params = layer.init(jax.random.key(1), x, Context())

    def count(seen: bool) -> int:
        return count_flops(jax.grad(lambda params: layer.apply(params, x, Context()).sum()), params, seen=seen)

    parts = jax.make_jaxpr(lambda params: layer.apply(params, x, Context()))(params)
    assert "keys_128_of_200" in str(parts.pretty_print(name_stack=True))
    counted = count(False), count(True)
    monkeypatch.setattr(core, "BLOCK", 10_000)
    assert counted == (count(False), count(True))


def test_gelu_and_its_derivatives_are_the_normal_distribution_s() -> None:
    x = jnp.concatenate([jnp.linspace(-30, 30, 4001), jnp.zeros(1)])

    def plain(x: jax.Array) -> jax.Array:
        return jax.nn.gelu(x, approximate=False)

    np.testing.assert_allclose(gelu(x), plain(x), atol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(x), jax.vmap(jax.grad(plain))(x), atol=1e-6)
    np.testing.assert_allclose(jax.jvp(gelu, (x,), (x,))[1], jax.jvp(plain, (x,), (x,))[1], atol=3e-5)
    twice = jax.vmap(jax.grad(jax.grad(gelu)))(x)
    np.testing.assert_allclose(twice, jax.vmap(jax.grad(jax.grad(plain)))(x), atol=1e-5)
    assert gelu(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
