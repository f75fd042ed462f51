"""Residuals whose branches read a weighted sum of all earlier outputs, with weights that depend on the token."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.activation import gelu
from models.context import Context
from models.contracts import Branch, Norm
from models.norm import RMSNorm
from models.residual.single import unit
from models.residual.streams import copy_stream
from models.structure import require_positive


class AttentionResiduals(nn.Module):
    """x_l = sum_i a_i s_i, a = softmax_i(query_l . source_norm(s_i)): attention to all branches so far, over depth.

    arXiv:2603.15031.  s_0 is the embedding, s_i the output of branch i on norm(x_i); with `blocks` it is the sum of the
    outputs of as many blocks of the stack, the last of them so far (block attention residuals, by which Kimi K3 counts
    12).  State (b, t, n + 2, d): x, then s_0 .. s_n, zero until computed.  A query is applied after its branch, for the
    next one: the last gives the output, and the first branch reads s_0.  Queries start at 0, the mean of the sources,
    as in the paper.  Memory and averaging grow with the square of n = branches, or depth / blocks.  Raises ValueError
    unless all blocks of the stack have as many branches or `blocks` is given.
    """

    blocks: int | None = None  # of the stack, whose outputs are one source; None: each branch gives one
    norm: Norm = RMSNorm()

    def __post_init__(self) -> None:
        if self.blocks is not None:
            require_positive(self, "blocks")
        super().__post_init__()

    def count_sources(self, ctx: Context) -> int:
        """Number of sources beside the embedding: n."""
        return ctx.depth * ctx.branches if self.blocks is None else -(-ctx.depth // self.blocks)

    def expand(self, x: jax.Array, ctx: Context) -> jax.Array:
        """The stream, the same as s_0, and room for the outputs of branches."""
        return jnp.pad(copy_stream(x, 2), ((0, 0), (0, 0), (0, self.count_sources(ctx)), (0, 0)))

    def reduce(self, state: jax.Array, ctx: Context) -> jax.Array:
        """The stream."""
        return state[:, :, 0]

    @nn.compact
    def __call__(self, state: jax.Array, branch: Branch, ctx: Context) -> jax.Array:
        x, sources = state[:, :, 0], state[:, :, 1:]
        if sources.shape[2] != 1 + self.count_sources(ctx):
            raise ValueError(
                f"AttentionResiduals has room for the outputs of {sources.shape[2] - 1} branches, and {ctx.depth}"
                f" blocks like this one have {self.count_sources(ctx)}: give `blocks`, or blocks of as many branches."
            )
        index = ctx.layer * ctx.branches + ctx.branch if self.blocks is None else ctx.layer // self.blocks
        sources = sources.at[:, :, 1 + index].add(branch(self.norm(x)))
        query = self.param("query", nn.initializers.zeros, (x.shape[-1],)).astype(jnp.float32)
        keys = RMSNorm(name="source_norm")(sources).astype(jnp.float32)
        scores = jnp.where(jnp.arange(sources.shape[2]) < 2 + index, keys @ query, -jnp.inf)
        weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        return jnp.concatenate([jnp.einsum("btn,btnd->btd", weights, sources)[:, :, None], sources], axis=2)


class MUDD(nn.Module):
    """After each block, of which X_i is the output: r = sum_j A_rj X_j and m = sum_j A_mj X_j over j <= i.

    Multiway dynamic dense connections, arXiv:2502.12170.  The next block is h = r + mixer(norm(m)), then as pre-norm;
    the model's output is the last r.  A = gelu(unit(X_i) W_1) W_2 + bias, plus one for j = i; unit(x) = x /
    sqrt(mean(x^2)).  State (b, t, depth + 3, d): r, m, then X_0 .. X_depth, zero until computed.  The paper has a way
    each for the mixer's queries, keys and values, which share m here, since a branch reads one stream; and its W_1 is
    as wide as A is in each block, here as in the last, 2 (depth + 1).  W_1 starts normal with variance 1 / d, W_2 and
    bias at 0, as released: pre-norm.  Memory and averaging grow with depth squared.
    """

    norm: Norm = RMSNorm()

    def expand(self, x: jax.Array, ctx: Context) -> jax.Array:
        """The stream, the mixer's input, the same as X_0, and room for later blocks' outputs."""
        return jnp.pad(copy_stream(x, 3), ((0, 0), (0, 0), (0, ctx.depth), (0, 0)))

    def reduce(self, state: jax.Array, ctx: Context) -> jax.Array:
        """The stream."""
        return state[:, :, 0]

    @nn.compact
    def __call__(self, state: jax.Array, branch: Branch, ctx: Context) -> jax.Array:
        x = state[:, :, 0]
        x = x + branch(self.norm(state[:, :, 1] if ctx.branch == 0 else x))
        if ctx.branch < ctx.branches - 1:
            return state.at[:, :, 0].set(x)
        sources = jax.lax.dynamic_update_index_in_dim(state[:, :, 2:], x, ctx.layer + 1, 2)
        n = sources.shape[2]
        initial = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        tokens = unit(x.reshape(-1, x.shape[-1]).astype(jnp.float32))
        hidden = gelu(nn.Dense(2 * n, use_bias=False, kernel_init=initial, name="hidden")(tokens))
        moved = nn.Dense(2 * n, kernel_init=nn.initializers.zeros, name="weights")(hidden)
        weights = moved.reshape(*x.shape[:2], 2, n) + jax.nn.one_hot(ctx.layer + 1, n)
        return jnp.concatenate([jnp.einsum("btmn,btnd->btmd", weights.astype(x.dtype), sources), sources], axis=2)
