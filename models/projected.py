"""Logits that are not computed yet, and their loss without ever holding them all."""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from models.backend import platform


@flax.struct.dataclass
class Projected:
    """Logits cap * tanh((h E^T + bias) / cap) that are not computed yet: hidden (b, t, d), table (v, d).  What is computed is float32."""

    hidden: jax.Array
    table: jax.Array
    bias: jax.Array | None = None
    cap: float | None = flax.struct.field(pytree_node=False, default=None)
    chunk: int = flax.struct.field(pytree_node=False, default=1024)

    def __getitem__(self, place: Any) -> "Projected":
        """Those of some rows and times."""
        return dataclasses.replace(self, hidden=self.hidden[place])

    def logits(self) -> jax.Array:
        """All of them, (..., v)."""
        logits = _product("...d,vd->...v", self.hidden, self.table)
        logits = logits if self.bias is None else logits + self.bias
        return logits if self.cap is None else self.cap * jnp.tanh(logits / self.cap)

    def loss(self, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        """sum w (logsumexp(logits) - logits[label]) in nats, and the sum of w where no logit is above the label's; labels, weights (b, t).

        About `chunk` tokens at a time, some times of all rows.  The gradient is made beside the loss, since a sum's is known but for one
        factor: no logits are kept and none are computed again, and memory grows with chunk times v, never with b t v.
        """
        return _loss(self.hidden, self.table, self.bias, labels, weights, self.cap, max(1, self.chunk // labels.shape[0]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _loss(
    hidden: jax.Array, table: jax.Array, bias: jax.Array | None, labels: jax.Array, weights: jax.Array, cap: float | None, times: int
) -> tuple[jax.Array, jax.Array]:
    def one(sums: tuple[jax.Array, jax.Array], part: tuple[jax.Array, ...]) -> tuple[Any, None]:
        hidden, labels, weights = part
        logits = Projected(hidden, table, bias, cap).logits()
        own = jnp.where(_chosen(logits, labels), logits, 0.0).sum(-1)
        loss, right = jax.nn.logsumexp(logits, axis=-1) - own, own >= logits.max(-1)
        return (sums[0] + (weights * loss).sum(), sums[1] + (weights * right).sum()), None

    zero = jnp.zeros((), jnp.float32)
    sums, _ = jax.lax.scan(one, (zero, zero), _cut((hidden, labels, weights), times))
    return sums


def _forward(
    hidden: jax.Array, table: jax.Array, bias: jax.Array | None, labels: jax.Array, weights: jax.Array, cap: float | None, times: int
) -> tuple[tuple[jax.Array, jax.Array], Any]:
    def one(carry: Any, part: tuple[jax.Array, ...]) -> tuple[Any, Any]:
        (loss, right), (table_gradient, bias_gradient) = carry
        hidden, labels, weights = part
        logits = Projected(hidden, table, bias, cap).logits()
        chosen = _chosen(logits, labels)
        largest = logits.max(-1, keepdims=True)
        powers = jnp.exp(logits - largest)
        total = powers.sum(-1, keepdims=True)
        own = jnp.where(chosen, logits, 0.0).sum(-1)
        losses, hits = (jnp.log(total) + largest)[..., 0] - own, (own >= largest[..., 0]).astype(jnp.float32)
        gradient = (powers / total - chosen) * weights[..., None]
        if cap is not None:
            gradient = gradient * (1 - jnp.square(logits / cap))
        if bias_gradient is not None:
            bias_gradient = bias_gradient + gradient.sum((0, 1))
        gradient = gradient.astype(hidden.dtype)
        hidden_gradient = jnp.einsum("btv,vd->btd", gradient, table)
        table_gradient = table_gradient + _product("btv,btd->vd", gradient, hidden)
        sums = (loss + (weights * losses).sum(), right + (weights * hits).sum())
        return (sums, (table_gradient, bias_gradient)), (hidden_gradient, losses, hits)

    zero = jnp.zeros((), jnp.float32)
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), (table, bias))
    (sums, (table_gradient, bias_gradient)), found = jax.lax.scan(one, ((zero, zero), empty), _cut((hidden, labels, weights), times))
    hidden_gradient, losses, hits = (_joined(leaf, labels.shape[1]) for leaf in found)
    bias_gradient = None if bias is None or bias_gradient is None else bias_gradient.astype(bias.dtype)
    return sums, (hidden_gradient, table_gradient.astype(table.dtype), bias_gradient, losses, hits)


def _backward(cap: float | None, times: int, kept: Any, given: tuple[jax.Array, jax.Array]) -> tuple[Any, ...]:
    *gradients, losses, hits = kept
    scaled = (None if leaf is None else (leaf * given[0]).astype(leaf.dtype) for leaf in gradients)
    return (*scaled, None, losses * given[0] + hits * given[1])


_loss.defvjp(_forward, _backward)


def _product(names: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """A product summed in float32, which jaxlib 0.7 on CPU has for float32 alone."""
    if platform() == "cpu":
        left, right = left.astype(jnp.float32), right.astype(jnp.float32)
    return jnp.einsum(names, left, right, preferred_element_type=jnp.float32)


def _chosen(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Which logit is the label's: a comparison, where a gather's gradient would be a scatter over the vocabulary."""
    return jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1) == labels[..., None]


def _cut(leaves: tuple[jax.Array, ...], times: int) -> tuple[jax.Array, ...]:
    """(b, t, ...) -> (parts, b, times, ...), zeros after the end."""

    def cut(leaf: jax.Array) -> jax.Array:
        b, t, *rest = leaf.shape
        parts = -(-t // times)
        padded = jnp.pad(leaf, ((0, 0), (0, parts * times - t), *((0, 0) for _ in rest)))
        return padded.reshape(b, parts, times, *rest).swapaxes(0, 1)

    return tuple(map(cut, leaves))


def _joined(leaf: jax.Array, t: int) -> jax.Array:
    """(parts, b, times, ...) -> (b, t, ...)."""
    parts, b, times, *rest = leaf.shape
    return leaf.swapaxes(0, 1).reshape(b, parts * times, *rest)[:, :t]
