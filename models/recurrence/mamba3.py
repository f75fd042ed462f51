"""Mamba-3: a state that decays and turns, by the trapezoidal rule."""

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.backend.implementation import Recurrent
from models.cache import recall, remember
from models.context import Context
from models.contracts import Norm
from models.norm import RMSNorm
from models.projection import merge
from models.recurrence.decayed import HEAD, decay_memory, head_width, step_biases
from models.recurrence.rwkv import shift_tokens
from models.recurrence.scan import fresh_tokens
from models.recurrence.through import resume
from models.structure import copy_as, require_positive

SLOWEST = 1e-4  # least rate of decay


class Mamba3(nn.Module):
    """S_t = a (S_{t-1} + (1 - w) s B_{t-1} u_{t-1}^T) + w s B_t u_t^T, out(silu(z) * (C_t S_t + D u_t)).

    (b, t, d) -> (b, t, d).  arXiv:2603.15569, with one input and one output a head.  u, z, B, C and the following are
    linear in x: the step s = softplus(. + bias), the decay a = exp(-s max(softplus(.), 0.0001)) and the share w =
    sigmoid(.) of the step's end in the trapezoid are numbers of the head.  B and C, of which all heads share one, pass
    a norm, get a bias of each head, which starts at 1, and are turned by angles that add up over time: pair i of
    channels by s pi tanh(.)_i a token, which makes the state's transition complex.  A part `turned` of the channels is
    in such pairs.

    Sizes and first values are those of state-spaces/mamba: heads of 64 channels, steps log-uniform from 0.001 to 0.1, D
    = 1; matrices start as elsewhere here.  There is no convolution.
    """

    causal: ClassVar[bool] = True
    heads: int | None = None  # None: one for every 64 channels of u
    expand: float = 2.0  # width of u over d
    state_width: int = 128
    turned: float = 0.5
    norm: Norm = RMSNorm(1e-5)  # of B and of C
    implementation: Recurrent | None = None  # None: chosen by platform and call

    def __post_init__(self) -> None:
        require_positive(self, "expand", "state_width", "turned")
        if self.turned > 1:
            raise ValueError(f"Mamba3.turned is {self.turned}; give a part of the channels above 0 and at most 1.")
        if self.heads is not None:
            require_positive(self, "heads")
        super().__post_init__()

    def turn(self, x: jax.Array, angles: jax.Array) -> jax.Array:
        """Turns pairs of channels i and i + p, of the first 2 p, by angles (b, h, t, p)."""
        p = angles.shape[-1]
        left, right, rest = jnp.split(x, [p, 2 * p], -1)
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        return jnp.concatenate([left * cos - right * sin, left * sin + right * cos, rest], -1)

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        (b, t, d), n = x.shape, self.state_width
        width, pairs = round(self.expand * d), int(self.turned * n) // 2
        h = self.heads or -(-width // HEAD)
        v = head_width(self, width, h, "expand")
        tokens = x.reshape(-1, d)

        def by_head(name: str) -> jax.Array:  # (b, h, t)
            return nn.Dense(h, use_bias=False, name=name)(tokens).astype(jnp.float32).reshape(b, t, h).swapaxes(1, 2)

        def shared(name: str) -> jax.Array:  # (b, h, t, n)
            vector = copy_as(self.norm, f"{name}_norm")(nn.Dense(n, use_bias=False, name=name)(tokens))
            bias = self.param(f"{name}_bias", nn.initializers.ones, (h, n)).astype(jnp.float32)
            return vector.astype(jnp.float32).reshape(b, 1, t, n) + bias[:, None]

        u = nn.Dense(width, use_bias=False, name="in")(tokens).reshape(b, t, h, v).swapaxes(1, 2).astype(jnp.float32)
        bias = self.param("step_bias", step_biases, (h,)).astype(jnp.float32)
        step = nn.softplus(by_head("step") + bias[:, None])
        log_decay = -step * jnp.maximum(nn.softplus(by_head("rate")), SLOWEST)
        end = nn.sigmoid(by_head("end"))
        speed = jnp.pi * jnp.tanh(nn.Dense(pairs, use_bias=False, name="angle")(tokens).astype(jnp.float32))
        angles = self.add_up(ctx, step[..., None] * speed.reshape(b, 1, t, pairs))
        write, read = (self.turn(shared(name), angles) for name in ("write", "read"))
        # what a token writes is known when the next one comes: P_t is S_t without the token's own write
        own = jnp.concatenate([write, u, (end * step)[..., None]], -1)
        before = shift_tokens(self, ctx, own.swapaxes(1, 2).reshape(b, t, -1)).reshape(b, t, h, -1).swapaxes(1, 2)
        write_before, u_before, weight = jnp.split(before, [n, n + v], -1)
        weight = jnp.exp(log_decay)[..., None] * (weight + ((1 - end) * step)[..., None])
        mixed = resume(self, ctx, decay_memory, read, write_before, weight * u_before, log_decay)
        direct = end * step * (read * write).sum(-1)
        mixed = mixed + (direct + self.param("skip", nn.initializers.ones, (h, 1)).astype(jnp.float32))[..., None] * u
        gate = nn.silu(nn.Dense(width, use_bias=False, name="gate")(tokens))
        return nn.Dense(d, use_bias=False, name="out")(gate * merge(mixed.astype(x.dtype))).reshape(x.shape)

    def add_up(self, ctx: Context, angles: jax.Array) -> jax.Array:
        """Sums of angles over each example, less whole turns, from the last of the call before: (b, h, t, p)."""
        (b, _, t, _), turn = angles.shape, 2 * math.pi

        def join(left: tuple[jax.Array, jax.Array], right: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            return left[0] | right[0], jnp.mod(jnp.where(right[0], 0, left[1]) + right[1], turn)

        fresh = fresh_tokens(self, ctx, b, t)[:, None, :, None]
        fresh, angles = jax.lax.associative_scan(join, (fresh, angles), axis=2)
        start = recall(self, ctx, "angle", jnp.zeros_like(angles[:, :, 0]))
        angles = jnp.mod(jnp.where(fresh, 0, start[:, :, None]) + angles, turn)
        remember(self, ctx, "angle", angles[:, :, -1])
        return angles
