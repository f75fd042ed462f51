"""Norms of gradients that are computed without the gradients, beside those of the gradients, of every component."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models import LogitsHead, Stack, TokenEmbed, Transformer
from models.paths import path_name
from tests.laws.components import BLOCK, arguments, component_classes, forms_of, parameters
from train.optimizers.ghost import find_ghosts

FIRST = ("Attention", "Experts", "GLU", "LogitsHead", "MLP", "TokenEmbed")
TOKENS = {"tokens": jnp.asarray([[3, 1, 3, 3, 2, 1]])}


def compare(loss: Any, params: Any, row: Any) -> set[str]:
    """Requires the same norm, loss and what comes with it; gives the paths of what needed no gradient."""
    rng = jax.random.key(1)
    ghosts = find_ghosts(loss, params, row, rng)
    (total, more), square = jax.jit(ghosts.compute_norm)(params, row, rng)
    (expected, others), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, row, rng)
    np.testing.assert_allclose(jnp.sqrt(square), optax.tree.norm(grads), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), more, others)
    return {
        path_name(path)
        for number, (path, _) in enumerate(jax.tree.leaves_with_path(params))
        if number in ghosts.numbers
    }


def weigh(tree: Any) -> jax.Array:
    """A sum of all numbers of a tree with weights of their own."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)]
    return sum(((leaf * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape)).sum() for leaf in floats), jnp.zeros(()))


@pytest.mark.parametrize(
    "owner",
    [
        pytest.param(owner, id=owner.__name__, marks=() if owner.__name__ in FIRST else pytest.mark.slow)
        for owner in component_classes()
    ],
)
def test_the_norm_of_every_component_s_gradient_is_that_of_the_gradient(owner: Any) -> None:
    for form in forms_of(owner).values():
        leaves, tree = jax.tree.flatten(arguments(form))
        arrays = [leaf for leaf in leaves if hasattr(leaf, "shape")]

        def loss(
            params: Any, arrays: Any, rng: jax.Array, form: Any = form, leaves: Any = leaves, tree: Any = tree
        ) -> Any:
            left = iter(arrays)
            whole = tree.unflatten([next(left) if hasattr(leaf, "shape") else leaf for leaf in leaves])
            rngs = {"dropout": rng}
            outputs, _ = form.apply({"params": params}, *whole, mutable=["losses", "metrics", "cache"], rngs=rngs)
            return weigh(outputs), {"first": jax.tree.leaves(outputs)[0]}

        if params := form.init(jax.random.key(0), *arguments(form)).get("params", {}):
            compare(loss, params, arrays)


def compare_model(model: Any) -> set[str]:
    def loss(params: Any, row: Any, rng: jax.Array) -> Any:
        del rng
        return weigh(model.apply({"params": params}, row)), {}

    return compare(loss, parameters(model), TOKENS)


def test_what_one_product_or_look_up_alone_reads_needs_no_gradient() -> None:
    found = compare_model(Transformer(TokenEmbed(11, 16), Stack(BLOCK, 1), LogitsHead(tied=False)))
    assert {"embed/token", "head/table", "stack/layer_0/mixer/query/kernel"} <= found
    assert not any("scale" in path or "bias" in path for path in found)


def test_what_is_read_twice_or_in_a_loop_is_not_taken_for_it() -> None:
    tied = compare_model(Transformer(TokenEmbed(11, 16), Stack(BLOCK, 1), LogitsHead(tied=True)))
    assert "embed/token" not in tied
    assert "stack/layer_0/mixer/query/kernel" in tied
    scanned = compare_model(Transformer(TokenEmbed(11, 16), Stack(BLOCK, 2, scan=True), LogitsHead(tied=False)))
    assert scanned == {"embed/token", "head/table"}


def test_a_program_that_is_run_within_is_read_too() -> None:
    kernel, again = jnp.ones((4, 3)), jax.jit(lambda kernel: kernel.astype(jnp.float32))

    def loss(params: Any, row: Any, rng: jax.Array) -> Any:
        del rng
        return weigh(jax.checkpoint(lambda kernel, x: jnp.sin(x @ again(kernel)))(params["w"], row)), {}

    assert compare(loss, {"w": kernel}, jnp.arange(20.0).reshape(5, 4)) == {"w"}
    assert (
        compare(lambda p, row, rng: (loss(p, row, rng)[0] + p["w"].sum(), {}), {"w": kernel}, jnp.ones((5, 4))) == set()
    )


class Either(nn.Module):
    """A kernel on the left of its product, over several axes."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        left = self.param("left", nn.initializers.normal(1.0), (5, 3, 2))
        return jnp.einsum("ohw,bthw->obt", left, x) + nn.Dense(1)(x.reshape(*x.shape[:2], -1))[..., 0]


def test_kernels_stand_on_either_side_and_have_several_axes() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 7, 3, 2))
    params = Either().init(jax.random.key(1), x)["params"]
    found = compare(lambda params, x, rng: (weigh(Either().apply({"params": params}, x)), {}), params, x)
    assert found == {"left", "Dense_0/kernel"}
