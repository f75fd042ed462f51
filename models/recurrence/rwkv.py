"""RWKV's time mixing."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.cache import remember, remembered
from models.context import Context
from models.contracts import Norm
from models.heads import merged
from models.implementation import Recurrent
from models.norm import LayerNorm
from models.recurrence.decayed import head_width, normed
from models.recurrence.delta import delta, unit
from models.recurrence.through import continued
from models.roles import UNDECAYED, Roles
from models.structure import require_positive

STRONGEST = -(2.718281828459045**-0.5)  # the log decay that a gate of 1 stands for
SHARES = {"receptance": 0.1, "decay": 0.45, "key": 0.35, "value": 0.35, "rate": 0.45, "gate": 0.1}


def before(module: nn.Module, ctx: Context, x: jax.Array) -> jax.Array:
    """The token before each, zeros where that is of another segment; while decoding the last one is kept.  (b, t, d) -> (b, t, d)."""
    b, t, d = x.shape
    segments = jnp.zeros((b, t), jnp.int32) if ctx.segments is None else ctx.segments.astype(jnp.int32)
    token, segment = remembered(module, ctx, "last", (jnp.zeros((b, d), x.dtype), jnp.full((b,), -1, jnp.int32)))
    remember(module, ctx, "last", (x[:, -1], segments[:, -1]))
    tokens = jnp.concatenate([token[:, None], x[:, :-1]], 1)
    same = jnp.concatenate([segment[:, None], segments[:, :-1]], 1) == segments
    return jnp.where(same[..., None], tokens, 0)


class RWKV7(nn.Module):
    """S_t = (diag(w) - (a c) c^T) S_{t-1} + k v^T, out(g * (norm(r S_t) + (r . bonus k) v)).  (b, t, d) -> (b, t, d).  arXiv:2503.14456.

    r, w, k, v, a and g each read their own mixture of a token with the one before.  w = exp(-sigmoid(.) / sqrt(e)), a = sigmoid(.) and
    g come through low ranks; c is the key, weighed and of length 1; k is the key times 1 + (a - 1) * learned.  Without the first
    layer's values in later layers; the norm's scale is shared by the heads.
    """

    causal: ClassVar[bool] = True
    # as in the paper's code, which decays no vector and no low rank
    roles: ClassVar[Roles] = {f"{name}_{way}/kernel": UNDECAYED for name in ("decay", "rate", "gate") for way in ("down", "up")} | {
        "bonus": UNDECAYED
    }
    heads: int = 8
    rank: int = 64
    gate_rank: int = 128
    norm: Norm = LayerNorm(64e-5)  # of each head
    implementation: Recurrent | None = None  # chosen by platform and call

    def __post_init__(self) -> None:
        require_positive(self, "heads", "rank", "gate_rank")
        super().__post_init__()

    def low_rank(self, name: str, x: jax.Array, bias: jax.Array, tanh: bool = False) -> jax.Array:
        """bias + up(down(x)), which starts at the bias, in float32."""
        down = nn.Dense(self.rank, use_bias=False, name=f"{name}_down")(x)
        up = nn.Dense(x.shape[-1], use_bias=False, kernel_init=nn.initializers.zeros, name=f"{name}_up")
        start = self.param(f"{name}_bias", lambda _: bias).astype(jnp.float32)
        return up(jnp.tanh(down) if tanh else down).astype(jnp.float32) + start

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        (b, t, d), h = x.shape, self.heads
        k = head_width(self, d, h)
        ramp = jnp.arange(d) / d
        past = before(self, ctx, x) - x
        mixture = {name: self.param(f"{name}_share", lambda _, power=power: 1 - ramp**power) for name, power in SHARES.items()}
        read = {name: (x + past * share.astype(x.dtype)).reshape(-1, d) for name, share in mixture.items()}

        def split(flat: jax.Array) -> jax.Array:
            return flat.reshape(b, t, h, k).swapaxes(1, 2)

        receptance, key, value = (nn.Dense(d, use_bias=False, name=name)(read[name]) for name in ("receptance", "key", "value"))
        log_decay = STRONGEST * nn.sigmoid(self.low_rank("decay", read["decay"], 6 * ramp**1.5 - 5.5, tanh=True))
        rate = nn.sigmoid(self.low_rank("rate", read["rate"], jnp.full((d,), -0.19)))
        removed = unit(split(key * self.param("removed", nn.initializers.constant(0.71), (d,)).astype(x.dtype)))
        key = key * (1 + (rate - 1) * self.param("replaced", nn.initializers.ones, (d,)).astype(jnp.float32))
        r, keys, values = split(receptance), split(key), split(value)
        mixed = continued(self, ctx, delta, r, keys, values, -removed * split(rate), removed, split(log_decay))
        bonus = self.param("bonus", nn.initializers.constant(-0.04), (h, 1, k)).astype(jnp.float32)
        own = merged((r * bonus * keys).sum(-1, keepdims=True) * values).astype(x.dtype)
        gate = nn.Dense(self.gate_rank, use_bias=False, name="gate_down")(read["gate"])
        gate = nn.Dense(d, use_bias=False, name="gate_up")(nn.sigmoid(gate))
        y = gate * (normed(mixed.astype(x.dtype), self.norm) + own)
        return nn.Dense(d, use_bias=False, name="out")(y).reshape(x.shape)
