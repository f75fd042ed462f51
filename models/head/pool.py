"""Pools: one vector an example from the hidden vectors of its tokens."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.context import Context
from models.structure import require_positive


class FirstToken(nn.Module):
    """The hidden vector of each example's first token; with `project`, BERT's pooler tanh(W h + b).  arXiv:1810.04805.

    (b, t, d) -> (b, d), or (b, n, d) if rows are packed.
    """

    project: bool = False

    @nn.compact
    def __call__(self, hidden: jax.Array, ctx: Context) -> jax.Array:
        first = hidden[:, 0] if ctx.starts is None else jnp.take_along_axis(hidden, ctx.starts[..., None], axis=1)
        return jnp.tanh(nn.Dense(hidden.shape[-1], name="project")(first)) if self.project else first


class MeanPool(nn.Module):
    """The mean of each example's hidden vectors, padding left out.

    (b, t, d) -> (b, d), or (b, n, d) if rows are packed.
    """

    @nn.compact
    def __call__(self, hidden: jax.Array, ctx: Context) -> jax.Array:
        b, t, _ = hidden.shape
        segments = jnp.ones((b, t), jnp.int32) if ctx.segments is None else ctx.segments
        starts = jnp.zeros((b, 1), jnp.int32) if ctx.starts is None else ctx.starts
        numbers = jnp.take_along_axis(segments, starts, axis=1)  # (b, n): the segment that each example is
        member = ((segments[:, None] == numbers[..., None]) & (segments[:, None] > 0)).astype(jnp.float32)
        total = jnp.einsum("bnt,btd->bnd", member, hidden.astype(jnp.float32))
        mean = (total / jnp.maximum(member.sum(-1, keepdims=True), 1.0)).astype(hidden.dtype)
        return mean[:, 0] if ctx.starts is None else mean


class EveryToken(nn.Module):
    """The hidden vector of every token, or of each `step`-th from `first` on: outputs for tokens, not for examples.

    (b, t, d) -> (b, t / step, d), or of the last tokens alone if `first` is negative and counts from the end.
    """

    step: int = 1
    first: int = 0

    def __post_init__(self) -> None:
        require_positive(self, "step")
        if self.first >= self.step:
            raise ValueError(
                f"EveryToken has first {self.first} and step {self.step}; first is below step, or counts from the end."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, hidden: jax.Array, ctx: Context) -> jax.Array:
        return hidden[:, self.first :: self.step]
