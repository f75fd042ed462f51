"""A mixer whose state is a linear model that learns while it reads: test-time training, arXiv:2407.04620."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class TTTLinear(nn.Module):
    """W_t = W_{t-1} - rate_t (W_{t-1} k_t - v_t) k_t^T, y_t = out(W_t q_t); W starts anew at position 0.  (b, t, d) ->
    (b, t, d).
    """

    heads: int = 4
    query_norm: nn.Module | None = None
    key_norm: nn.Module | None = None

    @nn.compact
    def __call__(self, x, ctx):
        (b, t, d), h = x.shape, self.heads
        k = d // h

        def split(name, norm=None):
            y = nn.Dense(d, use_bias=False, name=name)(x).reshape(b, t, h, k)
            return y if norm is None else norm(y)

        query, key, value = split("query", self.query_norm), split("key", self.key_norm), split("value")
        key = key / (1e-3 + jnp.sqrt(jnp.square(key).sum(-1, keepdims=True) + 1e-6))
        rate = nn.sigmoid(nn.Dense(h, name="rate")(x)) / 2
        first = self.param("first", nn.initializers.normal(0.1), (h, k, k)).astype(jnp.float32)
        positions = jnp.arange(t)[None] if ctx.positions is None else ctx.positions
        fresh = jnp.broadcast_to(positions == 0, (b, t))

        def learn(state, token):
            query, key, value, rate, fresh = token
            state = jnp.where(fresh[:, None, None, None], first, state)
            error = jnp.einsum("bhvk,bhk->bhv", state, key) - value
            state = state - jnp.einsum("bh,bhv,bhk->bhvk", rate, error, key)
            return state, (jnp.einsum("bhvk,bhk->bhv", state, query), state)

        start = jnp.broadcast_to(first, (b, h, k, k))
        if ctx.decoding is not None and not ctx.decoding.start:
            start = self.get_variable("cache", "state")
        wide = [leaf.astype(jnp.float32).swapaxes(0, 1) for leaf in (query, key, value, rate)]
        _, (y, states) = jax.lax.scan(learn, start, (*wide, fresh.T))
        if ctx.decoding is not None:
            self.put_variable("cache", "state", states[-1])
        y = y.swapaxes(0, 1).reshape(b, t, d).astype(x.dtype)
        return nn.Dense(d, use_bias=False, name="out")(y)
