"""A layer whose state is a linear model that learns from the row while it is read: TTT-Linear."""

from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from models.activation import gelu_tanh
from models.cache import recall, remember
from models.context import Context
from models.contracts import Activation, Layer, Norm, Position
from models.mixers.convolution import ShortConvolution
from models.norm import LayerNorm
from models.position import RoPE
from models.projection import merge, project
from models.recurrence.decayed import head_width
from models.recurrence.scan import fresh_tokens, scan_in_chunks
from models.roles import SCALED, Roles
from models.structure import copy_as, require_positive

DEVIATION = 0.02  # of the inner model and of the map to its rates at the start


@flax.struct.dataclass
class Learner:
    """An inner model within a step: `start` before it and `slope`, the sum of its tokens' gradients times their rates.

    Both (b, h, k + 1, k), the last row the bias.  count (b,): tokens of the example so far.
    """

    start: jax.Array
    slope: jax.Array
    count: jax.Array


@flax.struct.dataclass
class Tokens:
    """Tokens of a row: query, key and value (b, t, h, k), rate (b, t, h, 1), fresh and place in the example (b, t)."""

    query: jax.Array
    key: jax.Array
    value: jax.Array
    rate: jax.Array
    fresh: jax.Array
    place: jax.Array


def learn(
    first: jax.Array,
    share: jax.Array,
    norm: Callable[[jax.Array], jax.Array],
    tokens: Tokens,
    state: Learner,
) -> tuple[jax.Array, Learner]:
    """q + norm([q, 1] W_i) of each token i of `tokens`, (b, t, h, k), and the state after the last.

    An inner step has as many tokens of an example as `share` (n,) has numbers: W_i = W - share_i sum_{j <= i} rate_j
    [k_j, 1]^T g_j over the step's tokens j, where W, at first `first` (h, k + 1, k), is the model before the step and
    g_j the gradient of |norm(z) - (v_j - k_j)|^2 / 2 at z = [k_j, 1] W.  The step ends as W_i of its last token.

    This is the dual form: n tokens of the row at once, by products of matrices.  Of these, those of the example that
    entered are of the step that it is in (`now`) or of the next; examples that begin within are in their first.
    """
    size = share.shape[0]

    def body(state: Learner, tokens: Tokens) -> tuple[Learner, jax.Array]:
        c = tokens.place.shape[1]
        query, key, value, rate = (
            x.swapaxes(1, 2) for x in (tokens.query, tokens.key, tokens.value, tokens.rate)
        )  # (b, h, c, .)
        began = jax.lax.cummax(jnp.where(tokens.fresh, jnp.arange(c), -1), axis=1)  # of examples that begin within
        new = began >= 0
        now = ~new & (tokens.place // size == state.count[:, None] // size)
        group = jnp.where(new, began + 1, -now.astype(jnp.int32))  # (b, c)
        seen = (group[:, :, None] == group[:, None]) & jnp.tri(c, dtype=bool)
        read, write = (jnp.concatenate([x, jnp.ones_like(x[..., :1])], -1) for x in (query, key))

        def gradient(z: jax.Array) -> jax.Array:
            output, pull = jax.vjp(norm, z)
            return rate * pull(output - (value - key))[0]

        def add(slopes: jax.Array, chosen: jax.Array) -> jax.Array:
            return jnp.einsum("bhck,bhcl->bhkl", write * chosen[:, None, :, None], slopes)

        ended = state.slope + add(gradient(write @ state.start), now)
        after = state.start - share[-1] * ended
        models = (state.start, after, jnp.broadcast_to(first, after.shape))

        def choose(now: jax.Array, new: jax.Array, *options: jax.Array) -> jax.Array:
            """The option of each token or row: of the step that entered, of the next, of a first one."""
            now, new = (mask[:, None, ..., None] for mask in (now, new))
            return jnp.where(new, options[2], jnp.where(now, options[0], options[1]))

        slopes = gradient(choose(now, new, *(write @ model for model in models)))
        within = jnp.where(seen[:, None], read @ write.swapaxes(-1, -2), 0) @ slopes
        within = within + jnp.where(now[:, None, :, None], read @ state.slope, 0)
        moved = share[tokens.place % size][:, None, :, None] * within
        output = query + norm(choose(now, new, *(read @ model for model in models)) - moved)
        last = (now[:, -1:], new[:, -1:])
        start = choose(*last, *models)
        slope = jnp.where(now[:, -1, None, None, None], state.slope, 0) + add(slopes, group == group[:, -1:])
        count = tokens.place[:, -1] + 1
        done = (count % size == 0)[:, None, None, None]
        start, slope = jnp.where(done, start - share[-1] * slope, start), jnp.where(done, 0, slope)
        return Learner(start, slope, count), output.swapaxes(1, 2)

    state, outputs = scan_in_chunks(body, state, tokens, size)
    return outputs, state


class TTTLinear(nn.Module):
    """out(gelu(gate(x)) * norm(q_i + inner_norm(q_i W_i + b_i))), W and b learning v - k from k as the row is read.

    (b, t, d) -> (b, t, d).  arXiv:2407.04620.  Each head has a linear model of its own.  An inner step has `size`
    tokens of an example; within it the model of token i is W - share_i sum_{j <= i} rate_j (gradient of
    |inner_norm(k_j W + b) - (v_j - k_j)|^2 / 2 at the model before the step), with share_i = max(1 / i + learned, 0), i
    counted from 1, and rate_j = `rate` sigmoid(linear(x_j)) / k for heads of width k.  Queries and keys are one map and
    a convolution each; `within` turns them by their place in the step.  W starts each example with learned values.

    As released in test-time-training/ttt-lm-jax, where `rate` is 1 and `size` 16.  First values too: normal with
    deviation 0.02 of W and of the map to rates, 0 of b; other matrices start as elsewhere here, there as W.
    """

    causal: ClassVar[bool] = True
    roles: ClassVar[Roles] = {"inner_norm_scale": SCALED}  # products that sum over it are means
    heads: int = 8
    size: int = 16  # tokens of an inner step
    rate: float = 1.0
    within: Position | None = RoPE()  # by the place in the step
    activation: Activation = gelu_tanh
    convolution: Layer = ShortConvolution(activation=None, bias=True)
    norm: Norm = LayerNorm(1e-6)  # of all heads together

    def __post_init__(self) -> None:
        require_positive(self, "heads", "size", "rate")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        (b, t, d), h = x.shape, self.heads
        k = head_width(self, d, h)
        both = nn.Dense(d, use_bias=False, name="query")(x.reshape(-1, d)).reshape(x.shape)
        query, key = (
            copy_as(self.convolution, f"{name}_convolution")(both, ctx).reshape(b, t, h, k).swapaxes(1, 2)
            for name in ("query", "key")
        )
        value = project("value", x, h, k)
        first, shift = (
            self.param("inner_kernel", nn.initializers.normal(DEVIATION), (h, k, k)).astype(jnp.float32),
            self.param("inner_bias", nn.initializers.zeros, (h, 1, k)).astype(jnp.float32),
        )
        scale, bias = (
            self.param(name, initial, (h, 1, k)).astype(jnp.float32)
            for name, initial in (
                ("inner_norm_scale", nn.initializers.ones),
                ("inner_norm_bias", nn.initializers.zeros),
            )
        )
        learned = self.param("share", nn.initializers.zeros, (self.size,)).astype(jnp.float32)
        rate = project("rate", x, h, 1, True, nn.initializers.normal(DEVIATION)).astype(jnp.float32)
        model = jnp.concatenate([first, shift], 1)
        empty = Learner(
            jnp.broadcast_to(model, (b, *model.shape)), jnp.zeros((b, *model.shape)), jnp.zeros(b, jnp.int32)
        )
        state = recall(self, ctx, "state", empty)
        fresh = fresh_tokens(self, ctx, b, t)
        began = jax.lax.cummax(jnp.where(fresh, jnp.arange(t), -1), axis=1)
        place = jnp.arange(t) - jnp.where(began >= 0, began, -state.count[:, None])
        if self.within is not None:
            query, key = (self.within(part, (place % self.size)[:, None]) for part in (query, key))

        def norm(z: jax.Array) -> jax.Array:
            z = z - z.mean(-1, keepdims=True)
            return z * jax.lax.rsqrt(jnp.square(z).mean(-1, keepdims=True) + 1e-6) * scale + bias

        query, key, value, rate = (
            part.swapaxes(1, 2).astype(jnp.float32) for part in (query, key, value, self.rate / k * nn.sigmoid(rate))
        )
        share = jnp.maximum(1 / jnp.arange(1, self.size + 1) + learned, 0)
        mixed, state = learn(model, share, norm, Tokens(query, key, value, rate, fresh, place), state)
        remember(self, ctx, "state", state)
        mixed = self.norm(merge(mixed.swapaxes(1, 2).astype(x.dtype)))
        gate = self.activation(nn.Dense(d, use_bias=False, name="gate")(x.reshape(-1, d)))
        return nn.Dense(d, use_bias=False, name="out")(gate * mixed).reshape(x.shape)
