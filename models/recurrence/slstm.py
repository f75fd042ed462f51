"""The scalar memory of xLSTM, whose gates read the output before: one token after the other."""

from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.cache import recall, remember
from models.context import Context
from models.contracts import Layer, Norm
from models.mixers.convolution import ShortConvolution
from models.norm import LayerNorm
from models.recurrence.decayed import head_width, norm_merge
from models.recurrence.mlstm import NOTHING
from models.recurrence.scan import fresh_tokens, in_turn, scan_in_chunks
from models.structure import require_positive

GATES = ("input", "forget", "cell", "output")
CHUNK = 64  # tokens whose states the backward pass holds at once
WITHIN = nn.initializers.lecun_normal(batch_axis=0)


class Cell(NamedTuple):
    """The state of a row, (b, h, k) each: output, cell and normaliser, these two divided by exp(level)."""

    output: jax.Array
    cell: jax.Array
    normaliser: jax.Array
    level: jax.Array

    @classmethod
    def empty(cls, b: int, h: int, k: int) -> "Cell":
        """The state before the first token."""
        zero = jnp.zeros((b, h, k), jnp.float32)
        return cls(zero, zero, zero, jnp.full((b, h, k), NOTHING, jnp.float32))


def scalar_lstm(gates: jax.Array, recurrent: jax.Array, fresh: jax.Array, state: Cell) -> tuple[jax.Array, Cell]:
    """c_t = f_t c_{t-1} + i_t tanh(z_t), n_t = f_t n_{t-1} + i_t, y_t = sigmoid(o_t) c_t / n_t.

    (b, t, h, k) and the state after the last token.

    i = exp(.), f = sigmoid(.), z and o are `gates` (b, t, h, k, 4) plus the output before times `recurrent` (h, k, k,
    4).  At `fresh` tokens (b, t) the state before is empty.  c and n are divided by exp of the largest logarithm of
    their weights, which no output depends on.
    """

    def step(state: Cell, inputs: tuple[jax.Array, jax.Array]) -> tuple[Cell, jax.Array]:
        gates, fresh = inputs
        empty = Cell.empty(*state.output.shape)
        state = Cell(*(jnp.where(fresh[:, None, None], new, old) for new, old in zip(empty, state, strict=True)))
        both = gates + jnp.einsum("bhk,hklg->bhlg", state.output, recurrent)
        enter, forget, cell, output = (both[..., index] for index in range(len(GATES)))
        kept = nn.log_sigmoid(forget) + state.level
        level = jax.lax.stop_gradient(jnp.maximum(enter, kept))
        kept, enter = jnp.exp(kept - level), jnp.exp(enter - level)
        cell = kept * state.cell + enter * jnp.tanh(cell)
        normaliser = kept * state.normaliser + enter
        state = Cell(nn.sigmoid(output) * cell / normaliser, cell, normaliser, level)
        return state, state.output

    state, outputs = scan_in_chunks(in_turn(step), state, (gates, fresh), CHUNK)
    return outputs, state


class SLSTM(nn.Module):
    """scale * norm(sigmoid(o) c / n) with c_t = f c_{t-1} + i tanh(z), n_t = f n_{t-1} + i.  (b, t, d) -> (b, t, d).

    arXiv:2405.04517.  i = exp(.), f = sigmoid(.), z and o are a linear map of the input, one of the output before, and
    a bias, each within its head; i and f read the input through `convolution`.  The bias of i is left out: it is a
    factor of both c and n, and moves no output.  Tokens follow each other, as the gates
    read the output before: time is not parallel.  There is no map after the norm; the paper's block goes on with a
    gated feedforward.

    As released in NX-AI/xlstm, heads are 4, the maps of the output before start at 0 and the bias of f in block l of L
    at 5 - 12 (c / (k - 1))^(0.3 + 1.3 l / (L - 1)) for channel c of a head of width k, counted from 0.  The maps of the
    input start as matrices within heads elsewhere here, with variance 1 / k; there it is 2 / (5 d).
    """

    causal: ClassVar[bool] = True
    heads: int = 4
    convolution: Layer | None = ShortConvolution(bias=True)
    norm: Norm = LayerNorm(1e-5, bias=False, scale=False)  # of each head, before a scale of each channel

    def __post_init__(self) -> None:
        require_positive(self, "heads")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        (b, t, d), h = x.shape, self.heads
        k = head_width(self, d, h)
        near = x if self.convolution is None else self.convolution(x, ctx)
        last = max(ctx.depth - 1, 1)
        power = 0.3 + 1.3 * jnp.asarray(ctx.layer, jnp.float32) / last
        falling = 5 - 12 * (jnp.arange(k) / max(k - 1, 1)) ** power
        gates: list[jax.Array] = []
        recurrent: list[jax.Array] = []
        for name in GATES:
            kernel = self.param(f"{name}_kernel", WITHIN, (h, k, k)).astype(x.dtype)
            read = (near if name in ("input", "forget") else x).reshape(b, t, h, k)
            gates.append(jnp.einsum("bthk,hkl->bthl", read, kernel).astype(jnp.float32))
            if name != "input":
                start = falling if name == "forget" else jnp.zeros(k)
                bias = self.param(f"{name}_bias", lambda _, start=start: jnp.broadcast_to(start, (h, k)))
                gates[-1] += bias.astype(jnp.float32)
            recurrent.append(self.param(f"{name}_recurrent", nn.initializers.zeros, (h, k, k)).astype(jnp.float32))
        state = recall(self, ctx, "state", Cell.empty(b, h, k))
        mixed, state = scalar_lstm(jnp.stack(gates, -1), jnp.stack(recurrent, -1), fresh_tokens(self, ctx, b, t), state)
        remember(self, ctx, "state", state)
        scale = self.param("norm_scale", nn.initializers.ones, (d,)).astype(x.dtype)
        return (norm_merge(mixed.swapaxes(1, 2).astype(x.dtype), self.norm) * scale).reshape(x.shape)
