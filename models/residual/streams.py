"""Residuals whose state is more than one stream: parallel streams that mix, and memories of earlier blocks."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from models.context import Context
from models.contracts import Branch, Norm
from models.norm import LayerNorm, RMSNorm
from models.roles import UNDECAYED, Role, Roles
from models.structure import copy_as, require_positive


class HyperConnections(nn.Module):
    """n streams H: y = branch(norm(read . H)), H <- mix H + write y.  State (b, t, n, d).  arXiv:2409.19606.

    `dynamic` adds scale * tanh(state_norm(h) W) of each stream h to its entry of read (n,) and write (n,) and its
    column of mix (n, n); W starts at 0.  Branch k starts reading stream k mod n, mix as the identity and write as ones:
    pre-norm, whatever n is.  Streams start as copies and end as their mean, while the paper ends with their sum: the
    same before a norm.  The paper decays W and not the static read, write and mix.
    """

    # as in the paper: what depends on the token is decayed, what does not is not
    roles: ClassVar[Roles] = {"mix": UNDECAYED} | {
        f"{name}_weight": Role(decay=True) for name in ("read", "write", "mix")
    }
    streams: int = 4
    dynamic: bool = False
    norm: Norm = LayerNorm()

    def __post_init__(self) -> None:
        require_positive(self, "streams")
        super().__post_init__()

    def expand(self, x: jax.Array, ctx: Context) -> jax.Array:
        """n copies of the stream."""
        return copy_stream(x, self.streams)

    def reduce(self, state: jax.Array, ctx: Context) -> jax.Array:
        """Their mean."""
        return state.mean(-2)

    @nn.compact
    def __call__(self, state: jax.Array, branch: Branch, ctx: Context) -> jax.Array:
        n = self.streams
        read: jax.Array = self.param("read", lambda _: first_read(n, ctx))
        write = self.param("write", nn.initializers.ones, (n,))
        mix = self.param("mix", lambda _: jnp.eye(n))
        if self.dynamic:
            normal = copy_as(self.norm, "state_norm")(state).astype(jnp.float32)

            def shift(name: str, *shape: int) -> jax.Array:
                weight = self.param(name, nn.initializers.zeros, (state.shape[-1], *shape)).astype(jnp.float32)
                scale = self.param(f"{name}_scale", nn.initializers.constant(0.01), ()).astype(jnp.float32)
                return scale * jnp.tanh(normal @ weight)

            read, write = read + shift("read_weight"), write + shift("write_weight")
            mix = mix + shift("mix_weight", n).swapaxes(-1, -2)
        return mix_streams(mix, state) + write_branch(state, read, write, lambda x: branch(self.norm(x)))


class ManifoldHyperConnections(nn.Module):
    """Hyper-connections whose mix is doubly stochastic and whose read and write are not negative.  State (b, t, n, d).

    arXiv:2512.24880.  read = sigmoid(r), write = 2 sigmoid(w), mix = exp(m) with columns and rows normalised in turn
    `steps` times, where r, w (n,) and m (n, n) are a learned value plus scale * (z W), z the normalised streams of the
    token side by side; W starts at 0.  Mixing then keeps the mean of the streams, and no product of mixes grows.  The
    start is pre-norm up to the norm's epsilon.  Streams mix after the branch is written, H <- mix (H + write y); the
    paper mixes before, and then the first mix has nothing to do.  The scales start at 0.01 as in the paper, which does
    not say where the learned values start; here r at 1 for the stream that is read and -1 for the others, w at 0 and m
    at 8 on its diagonal, where mix is the identity to 0.001.
    """

    streams: int = 4
    steps: int = 20
    norm: Norm = LayerNorm()

    def __post_init__(self) -> None:
        require_positive(self, "streams", "steps")
        super().__post_init__()

    def expand(self, x: jax.Array, ctx: Context) -> jax.Array:
        """n copies of the stream."""
        return copy_stream(x, self.streams)

    def reduce(self, state: jax.Array, ctx: Context) -> jax.Array:
        """Their mean."""
        return state.mean(-2)

    @nn.compact
    def __call__(self, state: jax.Array, branch: Branch, ctx: Context) -> jax.Array:
        b, t, n, d = state.shape
        tokens = RMSNorm(name="state_norm")(state.reshape(b * t, n * d)).astype(jnp.float32)
        start = jnp.concatenate([2 * first_read(n, ctx) - 1, jnp.zeros(n), 8 * jnp.eye(n).reshape(-1)])
        base: jax.Array = self.param("base", lambda _: start)
        weight = self.param("weight", nn.initializers.zeros, (n * d, len(start))).astype(jnp.float32)
        scale = self.param("scale", nn.initializers.constant(0.01), (3,)).astype(jnp.float32)  # of read, write and mix
        moved = base + jnp.repeat(scale, np.array([n, n, n * n])) * (tokens @ weight)
        read, write, mix = jnp.split(moved.reshape(b, t, -1), (n, 2 * n), axis=-1)
        read, write, mix = (
            nn.sigmoid(read),
            2 * nn.sigmoid(write),
            doubly_stochastic(mix.reshape(b, t, n, n), self.steps),
        )
        return mix_streams(mix, state + write_branch(state, read, write, lambda x: branch(self.norm(x))))


class DenseFormer(nn.Module):
    """Pre-norm blocks, after each x <- x + sum_j w_j X_j over the embedding X_0 and all blocks' outputs so far.

    arXiv:2402.02622.  State (b, t, depth + 2, d): x, then X_0 .. X_depth, zero until computed.  w (depth + 1,) starts
    at 0, so the start is pre-norm; the paper's weights are these, plus one for the newest.  Memory and averaging grow
    with depth squared.
    """

    norm: Norm = LayerNorm()

    def expand(self, x: jax.Array, ctx: Context) -> jax.Array:
        """The stream, the same as X_0, and room for later blocks' outputs."""
        return jnp.pad(copy_stream(x, 2), ((0, 0), (0, 0), (0, ctx.depth), (0, 0)))

    def reduce(self, state: jax.Array, ctx: Context) -> jax.Array:
        """The stream."""
        return state[:, :, 0]

    @nn.compact
    def __call__(self, state: jax.Array, branch: Branch, ctx: Context) -> jax.Array:
        x = state[:, :, 0]
        x = x + branch(self.norm(x))
        if ctx.branch == ctx.branches - 1:
            weights = self.param("weights", nn.initializers.zeros, (ctx.depth + 1,)).astype(x.dtype)
            state = jax.lax.dynamic_update_index_in_dim(state, x, ctx.layer + 2, 2)
            x = x + jnp.einsum("btnd,n->btd", state[:, :, 1:], weights)
        return state.at[:, :, 0].set(x)


class UNet(nn.Module):
    """Pre-norm blocks; what enters block i also enters block depth - 1 - i, times a learned weight.  arXiv:2209.12152.

    The weight, one number a block, starts at 0, so the start is pre-norm; the paper joins the two by a linear map.  The
    middle block of an odd depth adds its own input.  State (b, t, 1 + ceil(depth / 2), d): the stream, then what
    entered the first half.
    """

    norm: Norm = LayerNorm()

    def expand(self, x: jax.Array, ctx: Context) -> jax.Array:
        """The stream, and room for the inputs of the first half."""
        return jnp.pad(copy_stream(x, 1), ((0, 0), (0, 0), (0, (ctx.depth + 1) // 2), (0, 0)))

    def reduce(self, state: jax.Array, ctx: Context) -> jax.Array:
        """The stream."""
        return state[:, :, 0]

    @nn.compact
    def __call__(self, state: jax.Array, branch: Branch, ctx: Context) -> jax.Array:
        x, layer, last = state[:, :, 0], jnp.asarray(ctx.layer), ctx.depth - 1
        if ctx.branch == 0:
            weight = self.param("weight", nn.initializers.zeros, ()).astype(x.dtype)
            # the slot of this block's input, or of its partner's
            slot = 1 + jnp.minimum(layer, last - layer)
            kept = jnp.where(2 * layer <= last, x, jax.lax.dynamic_index_in_dim(state, slot, 2, keepdims=False))
            state = jax.lax.dynamic_update_index_in_dim(state, kept, slot, 2)
            x = x + jnp.where(2 * layer >= last, weight, 0) * kept
        return state.at[:, :, 0].set(x + branch(self.norm(x)))


def copy_stream(x: jax.Array, n: int) -> jax.Array:
    """Copies the stream n times: (b, t, d) -> (b, t, n, d)."""
    return jnp.broadcast_to(x[:, :, None], (*x.shape[:2], n, x.shape[2]))


def first_read(n: int, ctx: Context) -> jax.Array:
    """One for the stream that this branch reads at the start, each branch the next: (n,).

    Equal weights would never part the streams.
    """
    return jax.nn.one_hot((ctx.layer * ctx.branches + ctx.branch) % n, n)


def write_branch(state: jax.Array, read: jax.Array, write: jax.Array, branch: Branch) -> jax.Array:
    """write branch(read . H) for streams H (b, t, n, d) and weights (..., n)."""
    read, write = read.astype(state.dtype), write.astype(state.dtype)
    return write[..., None] * branch((read[..., None] * state).sum(-2))[:, :, None]


def mix_streams(mix: jax.Array, state: jax.Array) -> jax.Array:
    """mix H: (..., n, n) and (b, t, n, d) -> (b, t, n, d)."""
    return jnp.einsum("...mn,...nd->...md", mix.astype(state.dtype), state)


def doubly_stochastic(logits: jax.Array, steps: int) -> jax.Array:
    """exp(logits) with columns and rows divided by their sums in turn, `steps` times: (..., n, n).

    Sinkhorn and Knopp 1967.
    """

    def once(_: int, logits: jax.Array) -> jax.Array:
        logits = logits - jax.nn.logsumexp(logits, axis=-2, keepdims=True)
        return logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True)

    return jnp.exp(jax.lax.fori_loop(0, steps, once, logits))  # a loop: as quickly compiled for many steps as for one
