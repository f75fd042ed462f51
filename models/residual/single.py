"""Residual connections.  The state is any pytree: see `expand` and `reduce` in models.contracts.Residual."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.context import Context
from models.contracts import Branch, Norm, Residual, Shrinks, Tree
from models.norm import LayerNorm
from models.structure import copy_as, require_positive


class PostNorm(nn.Module):
    """norm(x + branch(x)).  (b, t, d) -> (b, t, d).  arXiv:1706.03762."""

    norm: Norm = LayerNorm()

    @nn.compact
    def __call__(self, state: jax.Array, branch: Branch, ctx: Context) -> jax.Array:
        return self.norm(state + branch(state))


class PreNorm(nn.Module):
    """x + branch(norm(x)).  (b, t, d) -> (b, t, d).  arXiv:2002.04745."""

    norm: Norm = LayerNorm()

    @nn.compact
    def __call__(self, state: jax.Array, branch: Branch, ctx: Context) -> jax.Array:
        return state + branch(self.norm(state))


class Sandwich(nn.Module):
    """x + norm_out(branch(norm_in(x))).  (b, t, d) -> (b, t, d).  CogView, arXiv:2105.13290."""

    norm: Norm = LayerNorm()

    @nn.compact
    def __call__(self, state: jax.Array, branch: Branch, ctx: Context) -> jax.Array:
        # muP's scale of a branch would be lost in the norm after it, so it is applied again
        return state + ctx.branch_scale * copy_as(self.norm, "norm_out")(branch(copy_as(self.norm, "norm_in")(state)))


class ReZero(nn.Module):
    """x + alpha * branch(x), alpha one number that starts at 0, so that every block starts as the identity.

    arXiv:2003.04887.  (b, t, d) -> (b, t, d).
    """

    @nn.compact
    def __call__(self, state: jax.Array, branch: Branch, ctx: Context) -> jax.Array:
        return state + self.param("alpha", nn.initializers.zeros, ()).astype(state.dtype) * branch(state)


class LayerScale(nn.Module):
    """x + scale * branch(norm(x)), scale (d,) starting at `initial`.  (b, t, d) -> (b, t, d).  CaiT, arXiv:2103.17239.

    The paper starts at 0.1 up to 18 blocks, at 1e-5 up to 24 and at 1e-6 beyond.
    """

    initial: float = 0.1
    norm: Norm = LayerNorm()

    @nn.compact
    def __call__(self, state: jax.Array, branch: Branch, ctx: Context) -> jax.Array:
        scale = self.param("scale", nn.initializers.constant(self.initial), (state.shape[-1],))
        return state + scale.astype(state.dtype) * branch(self.norm(state))


class DeepNorm(nn.Module):
    """norm(alpha * x + branch(x)), alpha = (2 depth)^(1/4) unless given.  (b, t, d) -> (b, t, d).  arXiv:2203.00555.

    Training starts with the branch's weights times beta = (8 depth)^(-1/4), unless given: in attention those of values
    and of the output, in a feedforward all (figure 2).  `models.initialised` applies it, and `model.init` does not.
    Both are those of an encoder or a decoder alone; for N encoder and M decoder layers the paper has alpha
    0.81 (N^4 M)^(1/16) and beta 0.87 (N^4 M)^(-1/16) in the encoder, (3 M)^(1/4) and (12 M)^(-1/4) in the decoder.
    """

    alpha: float | None = None
    norm: Norm = LayerNorm()
    beta: float | None = None

    def first_gain(self, ctx: Context) -> float:
        """The gain of the branch's matrices: beta."""
        return (8 * ctx.depth) ** -0.25 if self.beta is None else self.beta

    @nn.compact
    def __call__(self, state: jax.Array, branch: Branch, ctx: Context) -> jax.Array:
        alpha = (2 * ctx.depth) ** 0.25 if self.alpha is None else self.alpha
        return self.norm(alpha * state + branch(state))


class ScaledNorm(nn.Module):
    """x + branch(norm(x) / sqrt(l)), l the block's number counted from 1: LayerNorm scaling.  (b, t, d) -> (b, t, d).

    arXiv:2502.05795.
    """

    norm: Norm = LayerNorm()

    @nn.compact
    def __call__(self, state: jax.Array, branch: Branch, ctx: Context) -> jax.Array:
        shrunk = jax.lax.rsqrt(jnp.asarray(ctx.layer + 1, jnp.float32))
        return state + branch(self.norm(state) * shrunk.astype(state.dtype))


class StochasticDepth(nn.Module):
    """`residual` whose branch is dropped for a whole example while training, and divided by what is kept otherwise.

    arXiv:1603.09382.  Block l of L, counted from 1, drops with probability rate * l / L.  Each example of a packed row
    is drawn for itself.  What is dropped is computed all the same.  The state is that of `residual`.  Raises ValueError
    for a rate outside [0, 1).
    """

    residual: Residual = PreNorm()
    rate: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate < 1.0:
            raise ValueError(f"StochasticDepth rate is {self.rate}; give a number from 0 up to, not including, 1.")
        super().__post_init__()

    def expand(self, x: jax.Array, ctx: Context) -> Tree:
        """The state of `residual` for the stream."""
        expand = getattr(self.residual, "expand", None)
        return expand(x, ctx) if expand else x

    def reduce(self, state: Tree, ctx: Context) -> jax.Array:
        """The stream of `residual` from its state."""
        reduce = getattr(self.residual, "reduce", None)
        return reduce(state, ctx) if reduce else state

    def first_gain(self, ctx: Context) -> float:
        """The factor of initial values in `residual`; 1 if it has none."""
        return self.residual.first_gain(ctx) if isinstance(self.residual, Shrinks) else 1.0

    @nn.compact
    def __call__(self, state: Tree, branch: Branch, ctx: Context) -> Tree:
        def drop(x: jax.Array) -> jax.Array:
            y = branch(x)
            if not ctx.train or self.rate == 0:
                return y
            b, t, _ = y.shape
            keep = 1 - self.rate * (ctx.layer + 1) / ctx.depth
            examples = 1 if ctx.segments is None else t + 1
            kept = jax.random.bernoulli(self.make_rng("dropout"), keep, (b, examples)) / keep
            kept = kept if ctx.segments is None else jnp.take_along_axis(kept, ctx.segments, axis=1)
            return y * kept[..., None].astype(y.dtype)

        return self.residual(state, drop, ctx)


class Highway(nn.Module):
    """g * branch(z) + (1 - g) * x with z = norm(x) and g = sigmoid(W z + w), w starting at `bias`.

    (b, t, d) -> (b, t, d).  A negative bias lets the stream through at the start.  The paper has no norm.
    arXiv:1505.00387.
    """

    bias: float = -1.0
    norm: Norm = LayerNorm()

    @nn.compact
    def __call__(self, state: jax.Array, branch: Branch, ctx: Context) -> jax.Array:
        d, normal = state.shape[-1], self.norm(state)
        dense = nn.Dense(d, bias_init=nn.initializers.constant(self.bias), name="gate")
        gate = nn.sigmoid(dense(normal.reshape(-1, d)).reshape(state.shape))
        return state + gate * (branch(normal) - state)


class NormalizedResidual(nn.Module):
    """u = unit(x); unit(u + alpha * (unit(branch(u)) - u)): steps on a sphere.  (b, t, d) -> (b, t, d).

    nGPT, arXiv:2410.01131.  unit(x) = x / sqrt(mean(x^2)), so the sphere's radius is sqrt(d), the size that other
    layers expect of their input; the paper's is 1. |alpha| (d,) starts at `initial`, about 1 / depth, and is kept 1 /
    sqrt(d) times as large, as in the paper.  The paper also normalises every weight matrix after each step and scales
    what attention and feedforward compute; both are left out.
    """

    initial: float = 0.05

    def __post_init__(self) -> None:
        require_positive(self, "initial")
        super().__post_init__()

    @nn.compact
    def __call__(self, state: jax.Array, branch: Branch, ctx: Context) -> jax.Array:
        d = state.shape[-1]
        root = (d if ctx.base is None else ctx.base.width) ** 0.5  # muP's rates are those of the base
        alpha = self.param("alpha", nn.initializers.constant(1 / root), (d,)).astype(jnp.float32)
        start = unit(state.astype(jnp.float32))
        step = unit(branch(start.astype(state.dtype)).astype(jnp.float32)) - start
        return unit(start + jnp.abs(alpha) * self.initial * root * step).astype(state.dtype)


def unit(x: jax.Array) -> jax.Array:
    """x / sqrt(mean(x^2)) over the last axis."""
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)
