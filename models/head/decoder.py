"""A decoder of whole examples from one hidden vector."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.activation import gelu
from models.attention.core import locate_tokens
from models.context import Context
from models.contracts import Activation, Norm
from models.mixers.noncausal import refuse_decoding
from models.norm import RMSNorm
from models.position import SinusoidalPosition
from models.structure import copy_as


class LastTokenDecoder(nn.Module):
    """norm(f(f(h_T + p_t))) with f(x) = activation(W norm(x) + b), from an example's last hidden vector h_T alone.

    (b, t, d) -> (b, t, d), d even.  p_t is the sinusoidal position, so that all that tells the tokens apart has to be
    in h_T: before logits (`LogitsHead.transform`) it measures how much of a row a mixer compresses into one vector.
    The decoder of the compression task of arXiv:2403.17844.
    """

    causal: ClassVar[bool] = False
    activation: Activation = gelu
    norm: Norm = RMSNorm()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        refuse_decoding(self, ctx)
        t, width = x.shape[1], x.shape[-1]
        if ctx.segments is None:
            last = x[:, -1:]
        else:
            is_last = jnp.diff(ctx.segments, axis=1, append=-1) != 0
            ends = jax.lax.cummin(jnp.where(is_last, jnp.arange(t), t), axis=1, reverse=True)
            last = jnp.take_along_axis(x, ends[..., None], axis=1)
        y = SinusoidalPosition()(jnp.broadcast_to(last, x.shape), locate_tokens(ctx, t).positions)
        for index in range(2):
            y = self.activation(nn.Dense(width, name=f"dense_{index}")(copy_as(self.norm, f"norm_{index}")(y)))
        return copy_as(self.norm, "norm_out")(y)
