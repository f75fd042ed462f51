"""Attribution of a score to the values at a path, by gradients and by occlusion.

Every function takes `score`, of outputs to one number an example, (b,), such as `lambda logits: logits[:, 1]`, and
attributes it to the values at `path`, by default the embedding (b, t, d).  Examples are rows: a row's score must depend
on that row alone.  Sum over the last axis for one number a token.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from models.contracts import Batch, Model, Tree
from models.head.chunked import compute_logits
from models.inspect.intermediates import capture, patch

Score = Callable[[Tree], jax.Array]
EMBED = "embed"


def gradient_times_input(model: Model, params: Tree, batch: Batch, score: Score, path: str = EMBED) -> jax.Array:
    """x * dF / dx, (b, t, d).  Shrikumar et al. 2016, arXiv:1605.01713."""
    x = _capture_one(model, params, batch, path)
    return x * jax.grad(_score_at(model, params, batch, score, path))(x)


def integrated_gradients(
    model: Model,
    params: Tree,
    batch: Batch,
    score: Score,
    path: str = EMBED,
    baseline: jax.Array | float = 0.0,
    steps: int = 50,
) -> jax.Array:
    """(x - x0) * integral over a in [0, 1] of dF(x0 + a (x - x0)) / dx, (b, t, d); `baseline` is x0.

    The sum over a row is F(x) - F(x0), up to the error of Gauss-Legendre quadrature with that many steps.  Sundararajan
    et al. 2017, arXiv:1703.01365.
    """
    x = _capture_one(model, params, batch, path)
    start = jnp.broadcast_to(jnp.asarray(baseline, x.dtype), x.shape)
    slope = jax.grad(_score_at(model, params, batch, score, path))
    nodes, weights = np.polynomial.legendre.leggauss(steps)

    def add(total: jax.Array, node: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        at, weight = node
        return total + weight * slope(start + at * (x - start)), None

    points = jnp.asarray((nodes + 1) / 2, x.dtype), jnp.asarray(weights / 2, x.dtype)
    total, _ = jax.lax.scan(add, jnp.zeros_like(x), points)
    return (x - start) * total


def smooth_grad(
    model: Model,
    params: Tree,
    batch: Batch,
    score: Score,
    key: jax.Array,
    path: str = EMBED,
    noise: float = 0.15,
    samples: int = 50,
) -> jax.Array:
    """The mean of dF / dx at x + e, e normal with a deviation of `noise` times the row's max(x) - min(x), (b, t, d).

    SmoothGrad, Smilkov et al. 2017, arXiv:1706.03825, section 3.1: 10 to 20 % of noise and 50 samples.
    """
    x = _capture_one(model, params, batch, path)
    axes = tuple(range(1, x.ndim))
    deviation = noise * (x.max(axes, keepdims=True) - x.min(axes, keepdims=True))
    slope = jax.grad(_score_at(model, params, batch, score, path))

    def add(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        return total + slope(x + deviation * jax.random.normal(key, x.shape, x.dtype)), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(x), jax.random.split(key, samples))
    return total / samples


def occlude(
    model: Model,
    params: Tree,
    batch: Batch,
    score: Score,
    path: str = EMBED,
    baseline: jax.Array | float = 0.0,
    width: int = 1,
) -> jax.Array:
    """F(x) - F(x with the tokens of a window at the baseline), the mean over the windows that hold a token, (b, t).

    Windows are of `width` tokens, at every place.  Zeiler and Fergus 2013, arXiv:1311.2901.
    """
    t = jax.eval_shape(lambda params: _capture_one(model, params, batch, path), params).shape[1]
    if not 1 <= width <= t:
        raise ValueError(f"width is {width}; a window holds from 1 to all {t} tokens.")
    places = np.arange(t)
    windows = (places >= places[: t - width + 1, None]) & (places < places[: t - width + 1, None] + width)
    drops = occlude_groups(model, params, batch, score, jnp.asarray(windows), path, baseline)
    return drops @ jnp.asarray(windows / windows.sum(0), drops.dtype)


def occlude_groups(
    model: Model,
    params: Tree,
    batch: Batch,
    score: Score,
    groups: jax.Array,
    path: str = EMBED,
    baseline: jax.Array | float = 0.0,
) -> jax.Array:
    """F(x) - F(x with the tokens of a group at the baseline), for groups (n, t) of true and false, (b, n)."""
    x = _capture_one(model, params, batch, path)
    compute = _scores_at(model, params, batch, score, path)

    def drop(group: jax.Array) -> jax.Array:
        hidden = group.reshape(1, -1, *[1] * (x.ndim - 2))
        return compute(jnp.where(hidden, jnp.asarray(baseline, x.dtype), x))

    return (compute(x) - jax.lax.map(drop, groups)).T


def _capture_one(model: Model, params: Tree, batch: Batch, path: str) -> jax.Array:
    (value,) = capture(model, params, batch, path).values()
    return value


def _scores_at(model: Model, params: Tree, batch: Batch, score: Score, path: str) -> Callable[[jax.Array], jax.Array]:
    def compute(value: jax.Array) -> jax.Array:
        return score(compute_logits(patch(model, params, batch, {path: value})))

    return compute


def _score_at(model: Model, params: Tree, batch: Batch, score: Score, path: str) -> Callable[[jax.Array], jax.Array]:
    compute = _scores_at(model, params, batch, score, path)
    return lambda value: compute(value).sum()
