"""Attention residuals: a branch reads a softmax over everything that earlier branches gave.  arXiv:2603.15031."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class AttnRes(nn.Module):
    """h_l = sum_i softmax_i(w_l . unit(v_i)) v_i over the embedding v_0 and what earlier branches gave; ends as the sum
    of all.

    The first branch has one source to choose from, so its query has no gradient.  State (b, t, 1 + branches * depth,
    d).
    """

    branches: int = 3  # a block has at most

    def expand(self, x, ctx):
        return jnp.pad(x[:, :, None], ((0, 0), (0, 0), (0, self.branches * ctx.depth), (0, 0)))

    def reduce(self, state, ctx):
        return state.sum(2)

    @nn.compact
    def __call__(self, state, branch, ctx):
        query = self.param("query", nn.initializers.zeros, (state.shape[-1],)).astype(jnp.float32)
        place = 1 + self.branches * ctx.layer + ctx.branch
        index = jnp.arange(state.shape[2])
        known = (index == 0) | ((index < place) & ((index - 1) % self.branches < ctx.branches))
        wide = state.astype(jnp.float32)
        unit = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + 1e-6)
        weights = jax.nn.softmax(jnp.where(known, unit @ query, -1e30), axis=-1)
        read = jnp.einsum("btn,btnd->btd", weights, wide).astype(state.dtype)
        given = branch(read)
        return jax.lax.dynamic_update_index_in_dim(state, given, place, 2)
