"""Intermediate values of every component: replaced by themselves and by another example's."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from models import GLU, Context
from models.laws.patching import (
    law_replacing_a_value_by_itself_changes_nothing,
    law_replacing_a_value_moves_what_depends_on_it,
)
from models.laws.verdict import BrokenLawError


def test_a_value_is_replaced_where_it_is() -> None:
    law_replacing_a_value_by_itself_changes_nothing(GLU(1.0))
    law_replacing_a_value_moves_what_depends_on_it(GLU(1.0))


class Shifting(nn.Module):
    """Broken: another function in every program."""

    calls = 0

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        Shifting.calls += 1
        return x * Shifting.calls


class Mixing(nn.Module):
    """Broken: reads other rows, or later tokens."""

    axis: int
    causal = True

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return x + jnp.roll(nn.Dense(x.shape[-1], name="map")(x), -1, self.axis)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("law", "component", "words"),
    [
        (law_replacing_a_value_by_itself_changes_nothing, Shifting(), "replaced by itself: "),
        (law_replacing_a_value_moves_what_depends_on_it, Mixing(0), "replaced: row 0"),
        (law_replacing_a_value_moves_what_depends_on_it, Mixing(1), "an earlier token"),
    ],
)
def test_broken_components_fail(law: Any, component: Any, words: str) -> None:
    with pytest.raises(BrokenLawError, match=words):
        law(component)
