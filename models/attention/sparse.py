"""Attention to some blocks of tokens, chosen by each query."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.attention.weigh import HIDDEN
from models.structure import require_positive


class BlockRouting(nn.Module):
    """Hides all blocks of `block` tokens from a query but its own and the `active` - 1 others of largest mean score.

    Scores (b, h, t, s) -> (b, h, t, s).  Mixture of block attention, arXiv:2502.13189: the mean score of a block is the
    product of the query with the block's mean key.  Blocks are counted in each example.  All scores are computed, and
    the others hidden: the results are the paper's, its savings are not.
    """

    block: int = 64
    active: int = 3

    def __post_init__(self) -> None:
        require_positive(self, "block", "active")
        super().__post_init__()

    @nn.compact
    def __call__(self, scores: jax.Array, query: jax.Array, positions: jax.Array, sources: jax.Array) -> jax.Array:
        (b, _, _, s), seen = scores.shape, scores > HIDDEN / 2
        block = jnp.broadcast_to(sources[:, 0] // self.block, (b, s))  # tokens of one stand side by side
        first = block[:, 1:] != block[:, :-1]
        run = jnp.cumsum(jnp.pad(first, ((0, 0), (1, 0))), axis=1, dtype=jnp.int32)  # (b, s), from 0 in each row
        total, number = (_sum_runs(part, run) for part in (jnp.where(seen, scores, 0.0), seen.astype(jnp.float32)))
        mean = jnp.where(number > 0, total / jnp.maximum(number, 1.0), HIDDEN)  # (b, h, t, n), n the number of a run
        blocks = jax.vmap(lambda block, run: jnp.full((s,), -1).at[run].set(block))(block, run)[:, None]
        # other examples have blocks of the same number
        local = blocks[..., None, :] == (positions // self.block)[..., None]
        mean = jnp.where(local & (number > 0), -HIDDEN, mean)
        least = jax.lax.top_k(mean, min(self.active, s))[0][..., -1:]
        chosen = jax.vmap(lambda chosen, run: chosen[..., run])(mean >= least, run)
        return jnp.where(chosen, scores, HIDDEN)


def _sum_runs(x: jax.Array, run: jax.Array) -> jax.Array:
    """Sums over the sources of each run: (b, h, t, s), (b, s) -> (b, h, t, s)."""
    return jax.vmap(lambda x, run: jnp.zeros_like(x).at[..., run].add(x, indices_are_sorted=True))(x, run)
