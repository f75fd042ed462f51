"""Experts that see the whole example: experts that choose tokens, and soft slots."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.activation import silu
from models.context import Context
from models.contracts import Activation
from models.experts.grouped import glu_kernels
from models.experts.routing import choose_highest
from models.feedforward import GLU
from models.structure import require_positive


class ExpertChoice(nn.Module):
    """Experts choose tokens: y_i = sum of s_ie GLU_e(x_i) over the experts e that chose token i, plus `shared` experts.

    The shared experts serve all tokens.  s = softmax over experts of x W; each expert takes the m * capacity / experts
    tokens of highest score, rounded down, of an example of m tokens, so all loads are equal.  (b, t, d) -> (b, t, d).
    arXiv:2202.09368.  The paper chooses among the tokens of a whole batch.  Choosing compares with later tokens: not
    causal, and it cannot decode.
    """

    experts: int = 8
    capacity: float = 2.0  # how many experts choose a token, on average
    expand: float = 4 / 3
    shared: int = 1
    activation: Activation = silu
    causal: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_positive(self, "experts", "capacity", "expand")
        if self.capacity > self.experts:
            raise ValueError(
                f"ExpertChoice.capacity is {self.capacity} of {self.experts} experts; a token can be chosen by each"
                " once."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        refuse_decoding(self, ctx)
        b, _, d = x.shape
        hidden = round(self.expand * d)
        gate, up, down = glu_kernels(self, self.experts, d, hidden)
        logits = nn.Dense(self.experts, use_bias=False, dtype=jnp.float32, name="router")(x.reshape(-1, d)).reshape(
            b, -1, self.experts
        )
        scores = jax.nn.softmax(logits, axis=-1).swapaxes(1, 2)
        index, valid = choose_highest(scores, ctx.segments, self.capacity / self.experts)
        rows = jax.vmap(lambda row, indices: row[indices])(x, index)  # (b, e, k, d)
        inner = self.activation(jnp.einsum("bekd,edf->bekf", rows, gate)) * jnp.einsum("bekd,edf->bekf", rows, up)
        weights = jnp.where(valid, jnp.take_along_axis(scores, index, axis=-1), 0).astype(x.dtype)
        outputs = jnp.einsum("bekf,efd,bek->bekd", inner, down, weights)
        y = jax.vmap(lambda indices, rows: jnp.zeros_like(x[0]).at[indices].add(rows))(index, outputs)
        if self.shared:
            y = y + GLU(self.shared * hidden / d, self.activation, name="shared")(x, ctx)
        return y


class SoftMoE(nn.Module):
    """Y = C GLU(D^T X): each expert reads `slots` weighted means of an example's tokens, a token a mean of all slots.

    D and C are softmaxes of L = scale * unit(X) unit(P) over tokens and over slots.  (b, t, d) -> (b, t, d).
    arXiv:2308.00951.  Each example of a packed row has its slots, so cost grows with the number of examples: that of
    ctx.starts if it is set, otherwise `examples`; tokens of further examples get NaN, since traced code cannot raise.
    Slots see later tokens: not causal, and it cannot decode.
    """

    experts: int = 8
    slots: int = 2
    expand: float = 4 / 3
    examples: int = 4
    activation: Activation = silu
    causal: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_positive(self, "experts", "slots", "expand", "examples")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        refuse_decoding(self, ctx)
        (b, t, d), e, p = x.shape, self.experts, self.slots
        gate, up, down = glu_kernels(self, e, d, round(self.expand * d))
        keys = self.param("keys", nn.initializers.normal(d**-0.5), (d, e * p)).astype(jnp.float32)
        scale = self.param("scale", nn.initializers.ones, ()).astype(jnp.float32)
        wide = x.astype(jnp.float32)
        unit = wide * jax.lax.rsqrt(jnp.square(wide).sum(-1, keepdims=True) + 1e-6)
        logits = unit @ (scale * keys * jax.lax.rsqrt(jnp.square(keys).sum(0) + 1e-6))
        members = jnp.ones((b, t, 1), bool)
        if ctx.segments is not None:
            most = self.examples if ctx.starts is None else ctx.starts.shape[1]
            members = ctx.segments[..., None] == jnp.arange(most + 1)
        pull = jnp.where(members[..., None], logits[:, :, None], -1e30)  # (b, t, examples, e * p)
        dispatch = jnp.where(members[..., None], jax.nn.softmax(pull, axis=1), 0).astype(x.dtype)
        rows = jnp.einsum("btns,btd->bnsd", dispatch, x).reshape(b, -1, e, p, d)
        inner = self.activation(jnp.einsum("bnepd,edf->bnepf", rows, gate)) * jnp.einsum("bnepd,edf->bnepf", rows, up)
        outputs = jnp.einsum("bnepf,efd->bnepd", inner, down).reshape(b, -1, e * p, d)
        combine = (jax.nn.softmax(logits, axis=-1)[:, :, None] * members[..., None]).astype(x.dtype)
        y = jnp.einsum("btns,bnsd->btd", combine, outputs)
        return y if ctx.segments is None else jnp.where(ctx.segments[..., None] < members.shape[-1], y, jnp.nan)


def refuse_decoding(module: nn.Module, ctx: Context) -> None:
    """Raises ValueError while decoding, for a layer that sees later tokens."""
    if ctx.decoding is not None:
        raise ValueError(
            f"{type(module).__name__} compares a token with later ones and cannot decode one token after the other."
        )
