"""Activations, by the field's names.

Where a derivative shares work with the value, both are computed at once and the derivative is kept for the backward
pass, which costs one array and no second evaluation.
"""

import math

import jax
import jax.numpy as jnp


def relu(x: jax.Array) -> jax.Array:
    """max(x, 0)."""
    return jnp.maximum(x, 0)


def gelu(x: jax.Array) -> jax.Array:
    """x * Phi(x) with the exact error function, Phi(x) = (1 + erf(x / sqrt(2))) / 2.  arXiv:1606.08415."""
    return _gelu(x)


@jax.custom_jvp
def _gelu(x: jax.Array) -> jax.Array:
    return x * _phi(x)


@_gelu.defjvp
def _differentiate_gelu(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """d gelu / dx = Phi(x) + x phi(x), with phi the normal density."""
    (x,), (tangent,) = primals, tangents
    below = _phi(x)
    slope = below + x * jnp.exp(-jnp.square(x) / 2) / math.sqrt(2 * math.pi)
    value, slope = jax.lax.optimization_barrier((x * below, slope))
    return value, slope * tangent


def _phi(x: jax.Array) -> jax.Array:
    """The distribution function of a standard normal variable."""
    return (1 + jax.lax.erf(x * math.sqrt(0.5))) / 2


def gelu_tanh(x: jax.Array) -> jax.Array:
    """The tanh approximation of gelu: x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))).  arXiv:1606.08415."""
    return jax.nn.gelu(x, approximate=True)


def silu(x: jax.Array) -> jax.Array:
    """x * sigmoid(x).  arXiv:1702.03118."""
    return jax.nn.silu(x)


def squared_relu(x: jax.Array) -> jax.Array:
    """max(x, 0)^2.  Primer, arXiv:2109.08668."""
    return jnp.square(jnp.maximum(x, 0))


def elu_plus_one(x: jax.Array) -> jax.Array:
    """elu(x) + 1: x + 1 above 0, exp(x) below; positive everywhere.  arXiv:2006.16236."""
    return jax.nn.elu(x) + 1
