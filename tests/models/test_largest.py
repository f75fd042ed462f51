"""The index of the largest number, with equals and NaNs, as argmax gives it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.largest import find_largest

SIZES = (1, 7, 31, 32, 33, 64, 97, 1000, 1733 * 29, 8000)


@pytest.mark.represented_by("97", "1000")
@pytest.mark.parametrize("n", SIZES)
def test_the_largest_is_where_argmax_finds_it(n: int) -> None:
    x = np.random.default_rng(n).normal(size=(3, 5, n)).astype(np.float32)
    x[0] = np.round(x[0])  # with equals
    x[1, 0] = 0.0
    x[1, 1] = -np.inf
    x[1, 2, n // 2] = np.nan
    x[1, 3, [n // 3, n - 1]] = np.nan
    x[1, 4, [n // 4, n - 1]] = np.inf
    found = jax.jit(find_largest)(x)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, jnp.argmax(x, -1))


def test_the_largest_of_half_precision() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 640)), jnp.bfloat16)
    np.testing.assert_array_equal(find_largest(x), jnp.argmax(x, -1))
