"""The matrix memory of xLSTM."""

from typing import ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from models.cache import recall, remember
from models.context import Context
from models.contracts import Norm
from models.norm import LayerNorm
from models.projection import Initial, project
from models.recurrence.chunked import Chunks, join, scan_chunks, sum_seen
from models.recurrence.decayed import head_width, norm_merge
from models.structure import require_positive

NOTHING = -1e30  # the logarithm of a weight that is zero


@flax.struct.dataclass
class Levelled:
    """The state exp(level) * memory, the normaliser its last column.

    memory (b, h, k, v + 1), level (b, h, 1, 1), segment (b,).
    """

    memory: jax.Array
    level: jax.Array
    segment: jax.Array

    @classmethod
    def empty(cls, b: int, h: int, k: int, v: int) -> "Levelled":
        """The state before the first token."""
        level = jnp.full((b, h, 1, 1), NOTHING, jnp.float32)
        return cls(memory=jnp.zeros((b, h, k, v + 1), jnp.float32), level=level, segment=jnp.full((b,), -1, jnp.int32))


def matrix_lstm(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    log_input: jax.Array,
    log_forget: jax.Array,
    segments: jax.Array | None = None,
    state: Levelled | None = None,
    chunk: int = 64,
) -> tuple[jax.Array, Levelled]:
    """C_t = f_t C_{t-1} + i_t k_t v_t^T, n_t = f_t n_{t-1} + i_t k_t, y_t = q_t C_t / max(|q_t n_t|, 1).

    (b, h, t, v) and the last state.

    query and key (b, h, t, k), value (b, h, t, v), log_input and log_forget (b, h, t).  As `decayed`, in float32, with
    all weights of a token divided by exp of the largest of their logarithms, which no output depends on.
    """
    b, h, t, k = key.shape
    state = Levelled.empty(b, h, k, value.shape[3]) if state is None else state
    chunks = Chunks.of(segments, state.segment, t, chunk)
    value = jnp.concatenate([value, jnp.ones_like(value[..., :1])], -1)
    query, key, value, log_forget = (chunks.cut(x) for x in (query, key, value, log_forget[..., None]))
    log_input = chunks.cut(log_input[..., None], NOTHING)
    total = sum_seen(log_forget, chunks.seen)
    whole = total[..., -1:, :]
    left = jnp.where(chunks.writes, whole - total + log_input, NOTHING)
    highest = jax.lax.stop_gradient(left.max(-2, keepdims=True))
    added = jnp.einsum("...ck,...cv->...kv", key * jnp.exp(left - highest), value)
    kept = jnp.where(chunks.keeps, whole, NOTHING)

    def advance(
        carry: tuple[jax.Array, jax.Array], kept: jax.Array, highest: jax.Array, added: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        memory, level = carry
        above = jax.lax.stop_gradient(jnp.maximum(kept + level, highest))
        return jnp.exp(kept + level - above) * memory + jnp.exp(highest - above) * added, above

    (entering, level), last = scan_chunks(advance, (state.memory, state.level), kept, highest, added)
    weights = jnp.where(chunks.seen, total - total.swapaxes(-1, -2) + log_input.swapaxes(-1, -2), NOTHING)
    carry = jnp.where(chunks.reads, total + level, NOTHING)
    above = jax.lax.stop_gradient(jnp.maximum(weights.max(-1, keepdims=True), carry))
    mixed = (jnp.einsum("...ik,...jk->...ij", query, key) * jnp.exp(weights - above)) @ value
    mixed = mixed + jnp.exp(carry - above) * (query @ entering)
    mixed = mixed[..., :-1] / jnp.maximum(jnp.abs(mixed[..., -1:]), jnp.exp(-above))
    return join(mixed, t), Levelled(last[0], last[1], chunks.last)


class MLSTM(nn.Module):
    """out(sigmoid(gate(x)) * norm(q C_t / max(|q n_t|, 1))) with C_t = f C_{t-1} + i k v^T, n_t = f n_{t-1} + i k.

    (b, t, d) -> (b, t, d).  arXiv:2405.04517.  i = exp(c(linear(x))) and f = sigmoid(c(linear(x))) are numbers of the
    head, c(z) = cap * tanh(z / cap).  The memory alone, as released for the 7B model (arXiv:2503.13427, NX-AI/xlstm):
    queries and keys half as wide as values, gates that start as their biases, capped at 15, and an input gate that
    starts at exp(-10).  The first paper's has a block around it, of a wider stream, convolution and learned skip; its
    gates read queries, keys and values, have no cap, and the input gate's bias starts normal with deviation 0.1.
    Matrices start as elsewhere here, theirs with variance 2 / (5 d), and that of the output smaller with depth.
    """

    causal: ClassVar[bool] = True
    heads: int = 8
    key_expand: float = 0.5  # width of queries and keys over d
    cap: float | None = 15.0  # bound of the gates' preactivations
    input_bias: float = -10.0  # bias of the input gate at the start
    norm: Norm = LayerNorm(1e-6, bias=False, scale=False)  # of each head, before a scale of each channel

    def __post_init__(self) -> None:
        require_positive(self, "heads", "key_expand")
        if self.cap is not None:
            require_positive(self, "cap")
        super().__post_init__()

    def gate(self, name: str, x: jax.Array, start: Initial) -> jax.Array:
        """The preactivation of a gate, one number a head, its bias at the start, within the cap: (b, h, t), float32."""
        z = project(name, x, self.heads, 1, True, kernel_init=nn.initializers.zeros, bias_init=start)[..., 0].astype(
            jnp.float32
        )
        return z if self.cap is None else self.cap * jnp.tanh(z / self.cap)

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        (b, _, d), h = x.shape, self.heads
        k, v = head_width(self, round(self.key_expand * d), h, "key_expand"), head_width(self, d, h)
        query, key, value = project("query", x, h, k), project("key", x, h, k), project("value", x, h, v)
        enter = self.gate("input", x, nn.initializers.constant(self.input_bias))
        forget = nn.log_sigmoid(self.gate("forget", x, lambda *_: jnp.linspace(3.0, 6.0, h)))
        state = recall(self, ctx, "state", Levelled.empty(b, h, k, v))
        mixed, state = matrix_lstm(query, key * ctx.score_scale(k), value, enter, forget, ctx.segments, state)
        remember(self, ctx, "state", state)
        gate = nn.sigmoid(nn.Dense(d, use_bias=False, name="gate")(x.reshape(-1, d)))
        scale = self.param("norm_scale", nn.initializers.ones, (d,)).astype(x.dtype)
        return nn.Dense(d, use_bias=False, name="out")(
            gate * norm_merge(mixed.astype(x.dtype), self.norm) * scale
        ).reshape(x.shape)
