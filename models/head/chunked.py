"""Logits that are not computed yet, and their loss without ever holding them all."""

import dataclasses
import functools
from types import EllipsisType

import flax.struct
import jax
import jax.numpy as jnp

from models.backend.kernels import sum_by_rows
from models.backend.platform import platform
from models.contracts import Tree

Key = jax.Array | EllipsisType | slice | int  # an index along one axis
Terms = tuple[jax.Array, ...]  # the loss, the hits and, under smoothing, the plain loss


@flax.struct.dataclass
class Projected:
    """Lazy logits cap * tanh((h E^T + bias) / cap): hidden (..., d), table (v, d).  Computed in float32."""

    hidden: jax.Array
    table: jax.Array
    bias: jax.Array | None = None
    cap: float | None = flax.struct.field(pytree_node=False, default=None)
    chunk: int = flax.struct.field(pytree_node=False, default=1024)

    def __getitem__(self, index: Key | tuple[Key, ...]) -> "Projected":
        """Selects the logits of some rows and times."""
        return dataclasses.replace(self, hidden=self.hidden[index])

    def logits(self) -> jax.Array:
        """Computes all logits, (..., v)."""
        logits = _product("...d,vd->...v", self.hidden, self.table)
        logits = logits if self.bias is None else logits + self.bias
        return logits if self.cap is None else self.cap * jnp.tanh(logits / self.cap)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all logits, (..., v)."""
        return *self.hidden.shape[:-1], self.table.shape[0]

    def loss(self, labels: jax.Array, weights: jax.Array, smoothing: float = 0.0) -> tuple[jax.Array, ...]:
        """sum w (logsumexp(z) - z[label]) in nats, z the logits, and the sum of w if z[label] is the largest.

        labels and weights are (b, t).

        With `smoothing` s the first is sum w (logsumexp(z) - (1 - s) z[label] - s mean(z)), whose gradient towards z is
        w (softmax(z) - (1 - s) [label] - s / v) (arXiv:1512.00567, section 7), and the loss without smoothing comes
        third, for the log.

        About `chunk` tokens of a device at a time, some times of all its rows.  The gradient is made beside the loss,
        since a sum's is known but for one factor: no logits are kept and none are computed again, and memory grows with
        chunk times v, never with b t v.  Only the first has a gradient towards the logits.  A mesh in the context
        splits the rows, and what its devices find is added once.
        """
        return self.losses(labels, weights, smoothing)[0]

    def losses(
        self, labels: jax.Array, weights: jax.Array, smoothing: float = 0.0
    ) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        """The sums of `loss` and what each is a weighted sum of, (b, t), which has no gradient."""
        sums_and_terms: Tree = _loss(self, labels, weights, smoothing)
        sums, each = sums_and_terms
        return sums, jax.lax.stop_gradient(each)


def compute_logits(outputs: Tree) -> Tree:
    """The outputs of a model, with the logits that a chunked head leaves to the loss computed."""
    return outputs.logits() if isinstance(outputs, Projected) else outputs


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _loss(outputs: Projected, labels: jax.Array, weights: jax.Array, smoothing: float) -> tuple[Terms, Terms]:
    def share(whole: Tree, rows: tuple[jax.Array, ...]) -> tuple[Tree, Tree]:
        table, bias = whole

        def step(sums: Terms, part: tuple[jax.Array, ...]) -> tuple[Terms, Terms]:
            hidden, labels, weights = part
            logits = Projected(hidden, table, bias, outputs.cap).logits()
            losses = _losses(
                logits, _match_labels(logits, labels), jax.nn.logsumexp(logits, axis=-1), logits.max(-1), smoothing
            )
            return _add(sums, weights, losses), losses

        sums, losses = jax.lax.scan(step, _zero_sums(smoothing), _cut(rows, outputs.chunk))
        return sums, jax.tree.map(lambda leaf: _join(leaf, labels.shape[1]), losses)

    return sum_by_rows(share, labels.shape[0])((outputs.table, outputs.bias), (outputs.hidden, labels, weights))


def _forward(
    outputs: Projected, labels: jax.Array, weights: jax.Array, smoothing: float
) -> tuple[tuple[Terms, Terms], tuple[Projected, Terms]]:
    def share(whole: Tree, rows: tuple[jax.Array, ...]) -> tuple[Tree, Tree]:
        table, bias = whole

        def step(carry: Tree, part: tuple[jax.Array, ...]) -> tuple[Tree, tuple[jax.Array, Terms]]:
            sums, (table_gradient, bias_gradient) = carry
            hidden, labels, weights = part
            logits = Projected(hidden, table, bias, outputs.cap).logits()
            chosen = _match_labels(logits, labels)
            largest = logits.max(-1, keepdims=True)
            powers = jnp.exp(logits - largest)
            total = powers.sum(-1, keepdims=True)
            losses = _losses(logits, chosen, (jnp.log(total) + largest)[..., 0], largest[..., 0], smoothing)
            target = (1 - smoothing) * chosen + smoothing / logits.shape[-1] if smoothing else chosen
            gradient = (powers / total - target) * weights[..., None]
            if outputs.cap is not None:
                gradient = gradient * (1 - jnp.square(logits / outputs.cap))
            if bias_gradient is not None:
                bias_gradient = bias_gradient + gradient.sum((0, 1))
            gradient = gradient.astype(hidden.dtype)
            hidden_gradient = jnp.einsum("btv,vd->btd", gradient, table)
            table_gradient = table_gradient + _product("btv,btd->vd", gradient, hidden)
            return (_add(sums, weights, losses), (table_gradient, bias_gradient)), (hidden_gradient, losses)

        empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), whole)
        sums, losses = jax.lax.scan(step, (_zero_sums(smoothing), empty), _cut(rows, outputs.chunk))
        return sums, jax.tree.map(lambda leaf: _join(leaf, labels.shape[1]), losses)

    whole = outputs.table, outputs.bias
    (sums, gradients), (hidden_gradient, losses) = sum_by_rows(share, labels.shape[0])(
        whole, (outputs.hidden, labels, weights)
    )
    table_gradient, bias_gradient = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), gradients, whole)
    return (sums, losses), (
        dataclasses.replace(outputs, hidden=hidden_gradient, table=table_gradient, bias=bias_gradient),
        losses,
    )


def _backward(
    smoothing: float, kept: tuple[Projected, Terms], outer: tuple[Terms, Terms]
) -> tuple[Projected, None, jax.Array | int]:
    del smoothing
    scales = outer[0]
    gradients = jax.tree.map(lambda leaf: (leaf * scales[0]).astype(leaf.dtype), kept[0])
    return gradients, None, sum(each * factor for each, factor in zip(kept[1], scales, strict=True))


_loss.defvjp(_forward, _backward)


def _losses(
    logits: jax.Array, chosen: jax.Array, total: jax.Array, largest: jax.Array, smoothing: float
) -> tuple[jax.Array, ...]:
    """Loss a token, 1 if no logit is above the label's, under smoothing the plain loss; total = logsumexp(logits)."""
    label_logits = jnp.where(chosen, logits, 0.0).sum(-1)
    plain, hits = total - label_logits, (label_logits >= largest).astype(jnp.float32)
    return (
        (total - (1 - smoothing) * label_logits - smoothing * logits.mean(-1), hits, plain)
        if smoothing
        else (plain, hits)
    )


def _zero_sums(smoothing: float) -> tuple[jax.Array, ...]:
    """The sums of `_losses` before any token."""
    return (jnp.zeros((), jnp.float32),) * (3 if smoothing else 2)


def _add(sums: tuple[jax.Array, ...], weights: jax.Array, losses: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Adds the terms of some tokens to the sums."""
    return tuple(total + (weights * each).sum() for total, each in zip(sums, losses, strict=True))


def _product(names: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """A product summed in float32, which jaxlib 0.7 on CPU has for float32 alone."""
    if platform() == "cpu":
        left, right = left.astype(jnp.float32), right.astype(jnp.float32)
    return jnp.einsum(names, left, right, preferred_element_type=jnp.float32)


def _match_labels(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """One-hot mask of the labels by comparison: a gather's gradient would be a scatter over the vocabulary."""
    return jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1) == labels[..., None]


def _cut(leaves: tuple[jax.Array, ...], chunk: int) -> tuple[jax.Array, ...]:
    """(b, t, ...) -> (parts, b, times, ...), about `chunk` tokens a part, zeros after the end."""

    def cut(leaf: jax.Array) -> jax.Array:
        b, t, *rest = leaf.shape
        times = max(1, chunk // b)
        parts = -(-t // times)
        padded = jnp.pad(leaf, ((0, 0), (0, parts * times - t), *((0, 0) for _ in rest)))
        return padded.reshape(b, parts, times, *rest).swapaxes(0, 1)

    return tuple(map(cut, leaves))


def _join(leaf: jax.Array, t: int) -> jax.Array:
    """(parts, b, times, ...) -> (b, t, ...)."""
    parts, b, times, *rest = leaf.shape
    return leaf.swapaxes(0, 1).reshape(b, parts * times, *rest)[:, :t]
