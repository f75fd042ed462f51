"""A bias that balances experts takes no part in the gradient: neither in its norm, nor in clipping, decay, moments and
schedule.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models import Block, Experts, LogitsHead, Stack, TokenEmbed, Transformer
from models.experts.routing import AuxiliaryLossFree
from models.parametrization import roles
from train.engine.step import initialise, make_loss, make_step
from train.objectives import NextToken
from train.optimizers import SGD, SOAP, AdamW, Constant, Linear, Muon, Optax, ScheduleFreeAdamW, route

RATE = 0.25
LAYER = Block(Experts(4, 1, 1.0, router=AuxiliaryLossFree(rate=RATE), dispatch="ragged"), None)
MODEL = Transformer(TokenEmbed(16, 8), Stack(LAYER, 2, scan=True), LogitsHead())
BATCH = {"tokens": jnp.asarray(np.random.default_rng(0).integers(0, 16, (4, 12)), jnp.int32)}
PATH = ("stack", "blocks", "block_0", "mixer", "router", "bias")


def at(tree: Any) -> Any:
    for name in PATH:
        tree = tree[name]
    return tree


@pytest.fixture(scope="module")
def measured() -> Any:
    """Parameters, their gradients and their roles."""
    shapes = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), BATCH))["params"]
    draw = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(draw.normal(0, 0.3, leaf.shape), jnp.float32), shapes)
    (_, sums), grads = jax.jit(jax.value_and_grad(make_loss(MODEL, NextToken()), has_aux=True))(
        params, BATCH, jax.random.key(0)
    )
    return params, jax.tree.map(lambda grad: grad / sums["loss"].weight, grads), roles(MODEL, BATCH)


OPTIMIZERS: dict[str, Any] = {
    "adamw": AdamW(Linear(0.1, warmup=0.5), decay=0.3, clip=0.01),
    "sgd": SGD(Constant(0.1), momentum=0.9, clip=0.01),
    "lion": Optax("lion", Constant(0.1), {"weight_decay": 0.3}, clip=0.01),
    "adafactor": Optax("adafactor", Constant(0.1), {}, clip=0.01),
    "muon": Muon(Constant(0.1), clip=0.01),
    "soap": SOAP(Constant(0.1), clip=0.01),
    "schedule_free": ScheduleFreeAdamW(Constant(0.1), clip=0.01),
}


def stepped(optimizer: optax.GradientTransformation, measured: Any, excess: Any) -> Any:
    """What two updates change, with something in the place of the bias's gradient."""
    params, grads, _ = measured
    grads = jax.tree_util.tree_map_with_path(
        lambda path, grad: excess if [key.key for key in path] == list(PATH) else grad, grads
    )
    state = optimizer.init(params)
    first, state = optimizer.update(grads, state, params)
    return first, optimizer.update(grads, state, optax.apply_updates(params, first))[0]


@pytest.mark.represented_by("adafactor")
@pytest.mark.parametrize("name", [*OPTIMIZERS, "no roles"])
def test_the_bias_moves_at_its_own_rate_and_nothing_else_feels_it(name: str, measured: Any) -> None:
    params, _, found = measured
    if name == "no roles":  # an optimizer of one's own, which knows nothing of them: what the trainer makes of it
        optimizer = route(optax.chain(optax.clip_by_global_norm(0.01), optax.adam(0.1)), params, found)
    else:
        optimizer = OPTIMIZERS[name].build(10, params, roles=found)
    excess = at(measured[1])
    assert (jnp.abs(excess) > 0).any()
    for ours, theirs in zip(
        stepped(optimizer, measured, excess), stepped(optimizer, measured, 100 * excess), strict=True
    ):
        np.testing.assert_allclose(at(ours), -RATE * np.sign(excess))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_frozen_bias_stays(measured: Any) -> None:
    optimizer = AdamW(freeze=("router/bias",)).build(10, measured[0], roles=measured[2])
    assert not np.any(at(stepped(optimizer, measured, at(measured[1]))[0]))


def test_the_norm_that_is_logged_is_that_of_the_loss_s_gradient(measured: Any) -> None:
    params, grads, found = measured
    optimizer = AdamW().build(10, params, roles=found)
    state, sums = jax.jit(make_step(MODEL, NextToken(), optimizer, roles=found))(
        initialise(params, optimizer, 0), BATCH
    )
    rest = sum(float(jnp.square(leaf).sum()) for leaf in jax.tree.leaves(grads)) - float(jnp.square(at(grads)).sum())
    np.testing.assert_allclose(sums["gradient_norm"].value, np.sqrt(rest), rtol=1e-4)
    assert np.sqrt(jnp.square(at(grads)).sum()) > 0.1 * sums["gradient_norm"].value  # it would be seen
    np.testing.assert_allclose(at(state.params) - at(params), -RATE * np.sign(at(grads)), rtol=1e-5)
