"""Tolerances of laws: what rounding moves is no fault, and a fault is none of rounding's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.context import Context
from models.laws.layer import law_packed_rows_equal_the_examples_alone
from models.laws.verdict import WORST, BrokenLawError, measure_rounding, require_close, require_up_to_rounding

X = np.linspace(0.5, 2, 64, dtype=np.float32)


@pytest.mark.parametrize("power", [1, 100, 1000])
def test_rounding_is_the_derivative_times_the_last_bits(power: int) -> None:
    """f(x) = k x changes by k 2^-22 x."""
    assert measure_rounding(lambda x: power * x.astype(np.float64), X) == pytest.approx(power * 2.0**-22 * 2, rel=0.1)


def test_a_difference_counts_where_rounding_does_not_explain_it() -> None:
    y = X.astype(np.float64)

    def compare_shifted(shift: float, slope: float) -> None:
        require_up_to_rounding(
            lambda tolerance: require_close(slope * y + shift, slope * y, tolerance),
            lambda x: slope * x.astype(float),
            X,
        )

    compare_shifted(5e-5, 1)
    compare_shifted(3e-4, 1000)
    with pytest.raises(BrokenLawError):
        compare_shifted(3e-4, 1)
    with pytest.raises(BrokenLawError):
        compare_shifted(2 * WORST, 1e9)


class Cancelled(nn.Module):
    """Sums over a segment as a difference of large numbers; `leak` of the row's other segments is added."""

    scale: float = 2000.0
    leak: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        assert ctx.segments is not None
        scale, same = self.scale, ctx.segments[:, :, None] == ctx.segments[:, None]
        seen = jnp.tril(jnp.ones((x.shape[1], x.shape[1]))) * jnp.where(same, 1.0, self.leak)
        return nn.Dense(x.shape[-1], use_bias=False)(seen @ (scale * x) - (scale - 1) * (seen @ x))


def test_an_ill_conditioned_layer_is_not_called_broken_unless_it_leaks() -> None:
    law_packed_rows_equal_the_examples_alone(Cancelled(), 264)
    with pytest.raises(BrokenLawError):
        law_packed_rows_equal_the_examples_alone(Cancelled(leak=0.5), 264)
