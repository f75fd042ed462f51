"""A memory of values that each token looks up by product keys."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.context import Context
from models.contracts import Norm
from models.norm import LayerNorm
from models.roles import UNDECAYED, Roles
from models.structure import require_positive

# within width^-1/2
HALVES = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=-1, out_axis=-2, batch_axis=(0, 1))


class ProductKeyMemory(nn.Module):
    """sum_i softmax_i(q . k_i) v_i over the `active` best of keys^2 values, k_(i, j) = [a_i, b_j].

    Two searches of `keys` halves find the best.  Each of `heads` has its own query and halves of keys (keys, key_width
    / 2), and all share the values.  (b, t, d) -> (b, t, d). arXiv:1907.05242, with `norm` on the halves of the queries
    in place of the paper's batch normalisation of whole ones.  Defaults and first values are those released in
    facebookresearch/XLM, which has 512 keys, while this has the 128 of the paper's smallest memory: halves uniform
    within 1 / sqrt(their width), values normal with deviation 1 / sqrt(d).  The paper trains the values at a rate of
    their own, 1e-3 throughout, without weight decay.
    """

    roles: ClassVar[Roles] = {"values": UNDECAYED}  # a step reads few of them, and decay would shrink all
    keys: int = 128
    heads: int = 4
    active: int = 32
    key_width: int = 256
    norm: Norm = LayerNorm()

    def __post_init__(self) -> None:
        require_positive(self, "keys", "heads", "active", "key_width")
        if self.key_width % 2 or self.active > self.keys:
            raise ValueError(
                f"ProductKeyMemory has key_width {self.key_width}, which must be even, and {self.active} active of"
                f" {self.keys} keys."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        d, h, k, half = x.shape[-1], self.heads, self.active, self.key_width // 2
        query = nn.Dense(h * 2 * half, name="query")(x.reshape(-1, d)).reshape(-1, h, 2, half)
        query = self.norm(query)
        keys = self.param("halves", HALVES, (h, 2, self.keys, half))
        values = self.param("values", nn.initializers.normal(d**-0.5), (self.keys**2, d))
        scores = jnp.einsum("nhcw,hckw->nhck", query.astype(jnp.float32), keys.astype(jnp.float32))
        best, indices = jax.lax.top_k(scores, k)
        pairs = (best[:, :, 0, :, None] + best[:, :, 1, None, :]).reshape(-1, h, k * k)
        index = (indices[:, :, 0, :, None] * self.keys + indices[:, :, 1, None, :]).reshape(-1, h, k * k)
        top, chosen = jax.lax.top_k(pairs, k)
        weights = jax.nn.softmax(top, axis=-1).astype(x.dtype)
        return jnp.einsum(
            "nhk,nhkd->nd", weights, values[jnp.take_along_axis(index, chosen, axis=-1)].astype(x.dtype)
        ).reshape(x.shape)
