"""Compiled sums are right at sizes where a release of jaxlib gets them wrong."""

import jax
import jax.numpy as jnp
import numpy as np

from models import RMSNorm
from tests.laws.components import normal


def test_the_jacobian_of_a_norm_is_that_of_the_definition() -> None:
    x, onto = normal(1, 64, 64), np.asarray(normal(2, 64 * 64, 128), np.float64)
    params = {"params": {"scale": jnp.ones(64)}}

    def projected(x: jax.Array) -> jax.Array:
        return jnp.asarray(RMSNorm(0.0).apply(params, x)).reshape(-1) @ jnp.asarray(onto, jnp.float32)

    found = jax.jit(jax.jacrev(projected))(x)
    wide, back = np.asarray(x, np.float64), onto.T.reshape(128, 64, 64)
    root = np.sqrt((wide**2).mean(-1, keepdims=True))
    expected = back / root - wide * (back * wide).mean(-1, keepdims=True) / root**3
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_sum_over_many_rows_is_that_of_each_row() -> None:
    column = jnp.arange(32_769, dtype=jnp.float32)
    rows = jnp.stack([column, 0 * column, 0 * column], axis=1)
    found = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(rows)
    np.testing.assert_allclose(found, np.asarray(column, np.float64) ** 2, rtol=1e-6)
