"""Values and experts of one neuron that each token looks up among many by product keys."""

from typing import ClassVar, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.activation import gelu
from models.context import Context
from models.contracts import Activation, Norm
from models.norm import LayerNorm
from models.roles import UNDECAYED, Role, Roles
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
        require_search(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        d = x.shape[-1]
        query = nn.Dense(self.heads * self.key_width, name="query")(x.reshape(-1, d))
        query = self.norm(query.reshape(-1, self.heads, 2, self.key_width // 2))
        halves = self.param("halves", HALVES, (self.heads, 2, self.keys, self.key_width // 2))
        values = self.param("values", nn.initializers.normal(d**-0.5), (self.keys**2, d))
        scores, index = search_pairs(query, halves, self.active)
        weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        return jnp.einsum("nhk,nhkd->nd", weights, values[index].astype(x.dtype)).reshape(x.shape)


class PEER(nn.Module):
    """sum_i softmax_i(q . k_i) activation(up_i . x) down_i over the `active` best of keys^2 experts of one neuron each.

    (b, t, d) -> (b, t, d).  Parameter-efficient expert retrieval, arXiv:2407.04153.  Product keys and `norm`, in place
    of the paper's batch normalisation, are those of ProductKeyMemory; each of `heads` chooses for itself, and all share
    the experts, up and down (keys^2, d).  8 heads with 16 experts each are the paper's, which has 1,024 keys.  Experts
    start normal with deviation 1 / sqrt(d), as the embeddings of its algorithm 1 do; halves of keys as in
    ProductKeyMemory.
    """

    # a step reads few of them, and decay would shrink all; the products with x follow a gather
    roles: ClassVar[Roles] = {"up": Role(decay=False, inputs=(-1,)), "down": UNDECAYED}
    keys: int = 128
    heads: int = 8
    active: int = 16
    key_width: int = 256
    activation: Activation = gelu
    norm: Norm = LayerNorm()

    def __post_init__(self) -> None:
        require_search(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        d = x.shape[-1]
        tokens = x.reshape(-1, d)
        query = nn.Dense(self.heads * self.key_width, use_bias=False, name="query")(tokens)
        query = self.norm(query.reshape(-1, self.heads, 2, self.key_width // 2))
        halves = self.param("halves", HALVES, (self.heads, 2, self.keys, self.key_width // 2))
        experts = nn.initializers.normal(d**-0.5)
        up, down = (self.param(name, experts, (self.keys**2, d)) for name in ("up", "down"))
        scores, index = search_pairs(query, halves, self.active)
        hidden = self.activation(jnp.einsum("nd,nhkd->nhk", tokens, up[index].astype(x.dtype)))
        hidden = hidden * jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        return jnp.einsum("nhk,nhkd->nd", hidden, down[index].astype(x.dtype)).reshape(x.shape)


class Searching(Protocol):
    """A layer that searches pairs of halves of keys."""

    @property
    def keys(self) -> int: ...

    @property
    def active(self) -> int: ...

    @property
    def key_width(self) -> int: ...


def require_search(layer: Searching) -> None:
    """Raises ValueError for sizes that are not positive, an odd key_width, and more active values than half keys."""
    require_positive(layer, "keys", "heads", "active", "key_width")
    if layer.key_width % 2 or layer.active > layer.keys:
        raise ValueError(
            f"{type(layer).__name__} has key_width {layer.key_width}, which must be even, and {layer.active} active of"
            f" {layer.keys} keys."
        )


def search_pairs(query: jax.Array, halves: jax.Array, active: int) -> tuple[jax.Array, jax.Array]:
    """Scores in float32 and indices i * keys + j of the `active` best of all pairs q_1 . a_i + q_2 . b_j, (n, h, k).

    query (n, h, 2, width), halves (h, 2, keys, width).  The best pairs are among those of the `active` best halves.
    """
    scores = jnp.einsum("nhcw,hckw->nhck", query.astype(jnp.float32), halves.astype(jnp.float32))
    best, indices = jax.lax.top_k(scores, active)
    pairs = (best[:, :, 0, :, None] + best[:, :, 1, None, :]).reshape(*best.shape[:2], -1)
    index = (indices[:, :, 0, :, None] * halves.shape[2] + indices[:, :, 1, None, :]).reshape(pairs.shape)
    top, chosen = jax.lax.top_k(pairs, active)
    return top, jnp.take_along_axis(index, chosen, axis=-1)
