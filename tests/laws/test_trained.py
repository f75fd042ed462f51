"""Laws of training in bfloat16: every component, in a small model of its own."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Context
from models.contracts import Batch
from models.depth.adaptive import Halting
from models.depth.stack import Pattern
from models.projection import Heads
from tests.laws.components import WIDTH, module_classes, modules_within, random_like
from tests.laws.trained import Trained, everything, resized, trained_with, training_batch
from train.contracts import Objective
from train.engine.step import initialise, make_loss, make_step
from train.optimizers import AdamW, Constant
from train.precision import cast
from train.sums import Sums

# One of each kind, and of each way to keep a state: the others are slow.
FAST = ("Attention",)
# a bfloat16 number is within 1/256 of the float32 one; what divides by small numbers makes more of it
STEPS, CLOSE = 2, 0.1


class Watching:
    """An objective that keeps the types of what it is given."""

    in_chunks = True

    def __init__(self, objective: Objective) -> None:
        self.objective, self.answer = objective, objective.answer
        self.kinds: set[Any] = set()

    def __call__(self, outputs: Any, batch: Batch) -> Sums:
        self.kinds |= {leaf.dtype for leaf in jax.tree.leaves(outputs)}
        return self.objective(outputs, batch)


def law_training_in_bfloat16_follows_float32(trained: Trained) -> None:
    """Every loss is finite and near what float32 gives for the same rounded parameters; outputs are in the type asked
    for.
    """
    objective = Watching(trained.objective)
    model, batch = resized(trained.model, WIDTH, 8), training_batch(trained, 2, 8)
    params = random_like(jax.eval_shape(lambda: model.init(jax.random.key(0), batch))["params"])
    optimizer = AdamW(Constant(0.01)).build(STEPS, params)
    step, exact = make_step(model, objective, optimizer, "bfloat16"), make_loss(model, trained.objective)

    @jax.jit
    def both(state: Any) -> Any:
        rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
        new, sums = step(state, batch)
        rounded = cast(cast(state.params, "bfloat16"), "float32")
        return new, sums["loss"], exact(rounded, batch, rng)[1]["loss"], sums["gradient_norm"].value

    state = initialise(params, optimizer, 0)
    for _ in range(STEPS):
        state, (total, weight, _), (expected, *_), norm = both(state)
        assert np.isfinite(norm)
        np.testing.assert_allclose(total / weight, expected / weight, rtol=CLOSE, atol=CLOSE / 2)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
    assert objective.kinds == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.represented_by(*FAST)
@pytest.mark.parametrize("trained", everything(), ids=lambda trained: trained.name)
def test_training_in_bfloat16_follows_float32(trained: Trained) -> None:
    law_training_in_bfloat16_follows_float32(trained)


def test_every_module_class_of_the_package_is_in_a_model() -> None:
    held = {type(part) for one in everything() for part in modules_within(one.model)}
    assert held >= set(module_classes()) - {Halting, Heads, Pattern}  # which attention and stacks make themselves


class Cancelling(nn.Module):
    """Broken: the variance as a difference of means of squares, which bfloat16 rounds below zero."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shifted = x + 30
        variance = jnp.mean(shifted * shifted, -1, keepdims=True) - jnp.square(jnp.mean(shifted, -1, keepdims=True))
        return (x - jnp.mean(x, -1, keepdims=True)) / jnp.sqrt(variance)


class Swamped(nn.Module):
    """Broken: adds a large number and takes it off again, which leaves little of a bfloat16 number."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return 2 * (jax.lax.optimization_barrier(x + 2**12) - 2**12)


class Wide(nn.Module):
    """Broken: float32 features, whatever is asked for."""

    width: int = WIDTH

    @nn.compact
    def __call__(self, batch: Batch, ctx: Context) -> tuple[jax.Array, Context]:
        return nn.Dense(self.width, dtype=jnp.float32)(batch["features"]), ctx


@pytest.mark.slow
@pytest.mark.parametrize("broken", [Cancelling, Swamped, Wide])
def test_broken_components_are_found_and_fail(broken: type) -> None:
    (trained,) = trained_with(broken)
    with pytest.raises(AssertionError):
        law_training_in_bfloat16_follows_float32(trained)
