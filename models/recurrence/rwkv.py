"""RWKV's time mixing and channel mixing."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.activation import squared_relu
from models.backend.implementation import Recurrent
from models.cache import recall, remember
from models.context import Context
from models.contracts import Activation, Norm, Tree
from models.norm import LayerNorm
from models.projection import merge
from models.recurrence.decayed import head_width, norm_merge
from models.recurrence.delta import delta, unit
from models.recurrence.through import resume
from models.roles import UNDECAYED, Roles
from models.structure import require_positive

STRONGEST = -(2.718281828459045**-0.5)  # the log decay that a gate of 1 stands for
SHARES = {"receptance": 0.2, "decay": 0.9, "key": 0.7, "value": 0.7, "rate": 0.9, "gate": 0.2}
LOW_RANKS = ("decay", "rate", "gate", "first")
FIRST = "rwkv_values"  # in ctx.shared: values (b, t, d) of the first layer
GAINS = {"receptance": 1.0, "key": 0.1, "value": 1.0}  # of orthogonal matrices at the start


def shift_tokens(module: nn.Module, ctx: Context, x: jax.Array) -> jax.Array:
    """The token before each, zeros if that is of another segment; while decoding the last one is cached.

    (b, t, d) -> (b, t, d).
    """
    b, t, d = x.shape
    segments = jnp.zeros((b, t), jnp.int32) if ctx.segments is None else ctx.segments.astype(jnp.int32)
    token, segment = recall(module, ctx, "last", (jnp.zeros((b, d), x.dtype), jnp.full((b,), -1, jnp.int32)))
    remember(module, ctx, "last", (x[:, -1], segments[:, -1]))
    tokens = jnp.concatenate([token[:, None], x[:, :-1]], 1)
    same = jnp.concatenate([segment[:, None], segments[:, :-1]], 1) == segments
    return jnp.where(same[..., None], tokens, 0)


class RWKV7(nn.Module):
    """S_t = (diag(w) - (a c) c^T) S_{t-1} + k v^T, out(g * (norm(r S_t) + (r . bonus k) v)).  (b, t, d) -> (b, t, d).

    arXiv:2503.14456.  r, w, k, v, a and g each read their own mixture of a token with the one before.  w =
    exp(-sigmoid(.) / sqrt(e)), a = sigmoid(.) and g come through low ranks; c is the key, weighed and of length 1; k is
    the key times 1 + (a - 1) * learned.  The paper's channel mixing is the feedforward `RWKVChannelMix`.

    With `value_residual`, as in the released models, v <- v + sigmoid(.) (v_1 - v), v_1 the values of the first such
    layer and the share, a number a channel, through a low rank.  The first layer gives its values to the later ones:
    under a scan it stands in the stack's `prefix`.

    First values are those of RWKV-LM's pretraining (`generate_init_weight`, which replaces its constructor's): out and
    the maps down to low ranks 0, so that every layer starts as zero; receptance and value orthogonal, the key and the
    maps up from low ranks a tenth of that; shares, decays and rates as in `first_values`, by channel and by how deep
    the layer stands.  Its optimizer decays matrices alone.
    """

    causal: ClassVar[bool] = True
    # as in the paper's code, which decays no vector and no low rank
    roles: ClassVar[Roles] = {f"{name}_{way}/kernel": UNDECAYED for name in LOW_RANKS for way in ("down", "up")}
    heads: int = 8  # the released models' are 64 wide
    rank: int | None = None  # rank of the maps to w and a; None: 1.8 sqrt(d), to a multiple of 32
    gate_rank: int | None = None  # rank of the gate; None: 0.6 d^0.8, to a multiple of 32
    norm: Norm = LayerNorm(64e-5, bias=False, scale=False)  # of each head, before a scale and a bias of each channel
    implementation: Recurrent | None = None  # None: chosen by platform and call
    value_residual: bool = False  # the first layer's values in the later ones
    value_rank: int | None = None  # rank of the map to their share; None: 1.3 sqrt(d), to a multiple of 32

    def __post_init__(self) -> None:
        ranks = {"rank": self.rank, "gate_rank": self.gate_rank, "value_rank": self.value_rank}
        require_positive(self, "heads", *(name for name, rank in ranks.items() if rank is not None))
        super().__post_init__()

    def low_rank(self, name: str, x: jax.Array, rank: int, between: Activation | None = None) -> jax.Array:
        """up(between(down(x))), which starts at what the maps up give for between(0)."""
        down = nn.Dense(rank, use_bias=False, kernel_init=nn.initializers.zeros, name=f"{name}_down")(x)
        gain = 0.1 * max(1.0, rank / x.shape[-1]) ** 0.5
        up = nn.Dense(x.shape[-1], use_bias=False, kernel_init=nn.initializers.orthogonal(gain), name=f"{name}_up")
        return up(down if between is None else between(down))

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> Tree:
        (b, t, d), h = x.shape, self.heads
        k = head_width(self, d, h)
        rank, gate_rank = self.rank or round_rank(1.8 * d**0.5), self.gate_rank or round_rank(0.6 * d**0.8)
        first = ctx.shared.get(FIRST) if self.value_residual else None
        start = first_values(d, k, ctx)
        start = start if first is not None else {name: value for name, value in start.items() if name != "first_bias"}
        learned: dict[str, jax.Array] = {
            name: self.param(name, lambda _, value=value: value) for name, value in start.items()
        }
        past = shift_tokens(self, ctx, x) - x
        read = {name: (x + past * learned[f"{name}_share"].astype(x.dtype)).reshape(-1, d) for name in SHARES}

        def split(flat: jax.Array) -> jax.Array:
            return flat.reshape(b, t, h, k).swapaxes(1, 2)

        def wide(name: str, low: jax.Array) -> jax.Array:
            return low.astype(jnp.float32) + learned[f"{name}_bias"].astype(jnp.float32)

        receptance, key, value = (
            nn.Dense(d, use_bias=False, kernel_init=nn.initializers.orthogonal(gain), name=name)(read[name])
            for name, gain in GAINS.items()
        )
        shared = {FIRST: value.reshape(x.shape)} if self.value_residual and first is None else {}
        if first is not None:
            value_rank = self.value_rank or round_rank(1.3 * d**0.5)
            share = nn.sigmoid(wide("first", self.low_rank("first", read["value"], value_rank))).astype(value.dtype)
            value = value + share * (first.reshape(-1, d).astype(value.dtype) - value)
        log_decay = STRONGEST * nn.sigmoid(wide("decay", self.low_rank("decay", read["decay"], rank, jnp.tanh)))
        rate = nn.sigmoid(wide("rate", self.low_rank("rate", read["rate"], rank)))
        removed = unit(split(key * learned["removed"].astype(x.dtype)))
        key = key * (1 + (rate - 1) * learned["replaced"].astype(jnp.float32))
        r, keys, values = split(receptance), split(key), split(value)
        mixed = resume(self, ctx, delta, r, keys, values, -removed * split(rate), removed, split(log_decay))
        bonus = learned["bonus"].astype(jnp.float32).reshape(h, 1, k)
        direct = merge((r * bonus * keys).sum(-1, keepdims=True) * values).astype(x.dtype)
        gate = self.low_rank("gate", read["gate"], gate_rank, nn.sigmoid)
        normal = norm_merge(mixed.astype(x.dtype), self.norm) * learned["norm_scale"].astype(x.dtype) + learned[
            "norm_bias"
        ].astype(x.dtype)
        out = nn.Dense(d, use_bias=False, kernel_init=nn.initializers.zeros, name="out")
        y = out(gate * (normal + direct)).reshape(x.shape)
        return (y, shared) if shared else y


class RWKVChannelMix(nn.Module):
    """value(max(key(x_t + share (x_{t-1} - x_t)), 0)^2), an MLP of each token and the one before.

    (b, t, d) -> (b, t, d).  The feedforward of RWKV-7, arXiv:2503.14456, section 4.2.  First values are those of
    RWKV-LM's pretraining: value 0, so that the layer starts as zero, the key orthogonal, and in layer l of L the share
    1 - (c / d)^((1 - l / L)^4) of channel c.
    """

    causal: ClassVar[bool] = True
    expand: float = 4.0  # hidden width over d

    def __post_init__(self) -> None:
        require_positive(self, "expand")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        d = x.shape[-1]
        channel = jnp.arange(d, dtype=jnp.float32) / d
        left = 1 - jnp.asarray(ctx.layer, jnp.float32) / ctx.depth
        share = self.param("share", lambda _: 1 - channel**left**4).astype(x.dtype)
        read = (x + (shift_tokens(self, ctx, x) - x) * share).reshape(-1, d)
        key = nn.Dense(round(self.expand * d), use_bias=False, kernel_init=nn.initializers.orthogonal(), name="key")
        value = nn.Dense(d, use_bias=False, kernel_init=nn.initializers.zeros, name="value")
        return value(squared_relu(key(read))).reshape(x.shape)


def round_rank(rank: float) -> int:
    """The multiple of 32, 32 at least, that is nearest to a rank."""
    return max(32, 32 * round(rank / 32))


def first_values(d: int, k: int, ctx: Context) -> dict[str, jax.Array]:
    """First values of a layer's vectors (d,), by channel c in heads of k and by the layer l of L.

    With z = y |y|, y from -1 to 1 within each head, and s from -1/2 to 1/2 over all channels: shares 1 - (c / d)^(p (1
    - l / L)) with the p of SHARES; decay bias 6 (s + 1/2)^(1 + (l / (L - 1))^0.3) - 5.5 + 2.5 z; rate bias 0.3 z + 0.4
    s - 0.19; the weight of the key that is removed 0.71 - 0.1 s; bias of the share of the first layer's values 0.73 -
    0.4 s; norm's scale ((l + 1) / L)^0.7.
    """
    layer, depth = jnp.asarray(ctx.layer, jnp.float32), ctx.depth
    channel = jnp.arange(d, dtype=jnp.float32)
    across = channel / max(d - 1, 1)
    within = 2 * (channel % k) / max(k - 1, 1) - 1
    zigzag, slope = within * jnp.abs(within), across - 0.5
    shares = {f"{name}_share": 1 - (channel / d) ** (power * (1 - layer / depth)) for name, power in SHARES.items()}
    return shares | {
        "decay_bias": 6 * across ** (1 + (layer / max(depth - 1, 1)) ** 0.3) - 5.5 + 2.5 * zigzag,
        "rate_bias": 0.3 * zigzag + 0.4 * slope - 0.19,
        "first_bias": 0.73 - 0.4 * slope,
        "removed": 0.71 - 0.1 * slope,
        "replaced": jnp.full(d, 1.02),
        "bonus": jnp.full(d, -0.04),
        "norm_scale": jnp.broadcast_to(((layer + 1) / depth) ** 0.7, d),
        "norm_bias": jnp.zeros(d),
    }
