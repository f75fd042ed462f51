"""Very many experts of one hidden unit each, found by product keys: PEER, arXiv:2407.04153."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class PEER(nn.Module):
    """sum over heads and the `active` best of keys^2 experts e of p_e gelu(down_e . x) up_e.  (b, t, d) -> (b, t,
    d).
    """

    keys: int = 8
    heads: int = 2
    active: int = 4
    key_width: int = 8

    @nn.compact
    def __call__(self, x, ctx):
        (b, t, d), h, k = x.shape, self.heads, self.active
        experts = self.keys**2
        query = nn.Dense(h * 2 * self.key_width, name="query")(x).reshape(b, t, h, 2, self.key_width)
        table = self.param(
            "keys", nn.initializers.normal(self.key_width**-0.5), (h, 2, self.keys, self.key_width)
        ).astype(x.dtype)
        scores = jnp.einsum("bthsw,hsnw->bthsn", query, table).astype(jnp.float32)
        best, index = jax.lax.top_k(scores, k)
        pairs = (best[..., 0, :, None] + best[..., 1, None, :]).reshape(b, t, h, k * k)
        number = (index[..., 0, :, None] * self.keys + index[..., 1, None, :]).reshape(b, t, h, k * k)
        chosen, place = jax.lax.top_k(pairs, k)
        number = jnp.take_along_axis(number, place, axis=-1)
        weights = jax.nn.softmax(chosen, axis=-1).astype(x.dtype)
        down = self.param("down", nn.initializers.normal(d**-0.5), (experts, d)).astype(x.dtype)[number]
        up = self.param("up", nn.initializers.normal(d**-0.5), (experts, d)).astype(x.dtype)[number]
        hidden = nn.gelu(jnp.einsum("btd,bthkd->bthk", x, down))
        return jnp.einsum("bthk,bthkd->btd", weights * hidden, up)
