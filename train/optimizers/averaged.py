"""Optimizers whose parameters are an average over the steps, so that the rate need not fall."""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax
import optax
import optax.contrib
from optax.contrib import ScheduleFreeState

from models.contracts import Tree
from train.contracts import Params, Roles, Schedule
from train.optimizers.schedules import Constant, require_values
from train.optimizers.transforms import (
    clip_norm,
    compute_layer_scales,
    descend,
    mask_decayed,
    refuse_mup,
    require_clip,
    require_layer_decay,
    route,
)


@runtime_checkable
class Interpolates(Protocol):
    """An optimizer whose gradients are taken at other parameters than those that it updates, such as an average's."""

    def interpolate(self, params: Params, opt_state: Tree) -> Params: ...


@dataclasses.dataclass(frozen=True)
class ScheduleFreeAdamW:
    """z <- z - rate * (g / sqrt(v) + decay * y), x <- (1 - c) x + c z, g the gradient at y = b1 x + (1 - b1) z.

    arXiv:2405.15682.  v is Adam's second moment; c is the share of this step in the sum of the squares of the largest
    rates so far, 1 / t if the rate is constant.  The rate has a warmup and does not fall.  x is what evaluation,
    checkpoints and exports see, and z is in the optimizer's state; the logged loss of training is that of y.  Clipping,
    decay by roles, `no_decay`, `layer_decay` and `freeze` are as in `AdamW`.  A model in muP is refused.
    """

    rate: Schedule = Constant(2.5e-3, warmup=0.05)
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    decay: float = 0.01
    no_decay: tuple[str, ...] | None = None
    layer_decay: float | None = None
    clip: float | None = 1.0
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_values(self, 0, 1, "b1", "b2")
        require_values(self, 0, math.inf, "epsilon", "decay")
        if not self.b1:
            raise ValueError("ScheduleFreeAdamW.b1 is 0; it must be above 0 and below 1.")
        require_clip(self.clip)
        require_layer_decay("ScheduleFreeAdamW", self.layer_decay)

    def build(self, steps: int, params: Params, roles: Roles | None = None) -> optax.GradientTransformation:
        """The optax transformation, whose updates are those of x for gradients at y.  Raises ValueError in muP."""
        refuse_mup(roles, "ScheduleFreeAdamW")
        rate = self.rate.build(steps)
        direction = optax.scale_by_rms(self.b2, self.epsilon, eps_in_sqrt=False, bias_correction=True)
        mask = mask_decayed(params, roles, self.no_decay)
        scales = None if self.layer_decay is None else compute_layer_scales(params, self.layer_decay)
        inner = optax.contrib.schedule_free(descend(direction, rate, self.decay, mask, scales), rate, self.b1)

        def update(
            updates: Params, state: optax.OptState, params: Params | None = None
        ) -> tuple[Params, optax.OptState]:
            assert isinstance(state, ScheduleFreeState)
            y = self._mix(params, state.z)
            moved, after = inner.update(updates, state, y)
            average = optax.contrib.schedule_free_eval_params(after, optax.apply_updates(y, moved))
            return jax.tree.map(lambda new, old: new - old, average, params), after

        return route(clip_norm(self.clip, optax.GradientTransformation(inner.init, update)), params, roles, self.freeze)

    def interpolate(self, params: Params, opt_state: Tree) -> Params:
        """The parameters y to take gradients at; those without a z stay as they are."""
        states = jax.tree.leaves(opt_state, is_leaf=lambda leaf: isinstance(leaf, ScheduleFreeState))
        z = next(state.z for state in states if isinstance(state, ScheduleFreeState))
        return self._mix(params, z)

    def _mix(self, x: Params, z: Params) -> Params:
        def mix(z: jax.Array | optax.MaskedNode, x: jax.Array) -> jax.Array:
            return x if isinstance(z, optax.MaskedNode) else self.b1 * x + (1 - self.b1) * z

        return jax.tree.map(mix, z, x, is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode))
