"""Update rules with a smaller state than AdamW's: Lion has one moment, Adafactor the sums of rows and columns."""

import dataclasses
import math
from typing import Literal

import optax

from train.contracts import Params, Roles, Schedule
from train.optimizers.schedules import Linear, require_values
from train.optimizers.transforms import (
    clip_norm,
    compute_layer_scales,
    descend,
    is_mup,
    map_growth,
    mask_decayed,
    refuse_mup,
    repeat_alone,
    require_clip,
    require_layer_decay,
    route,
    scale_by,
)


@dataclasses.dataclass(frozen=True)
class Lion:
    """theta <- theta - rate * (sign(b1 m + (1 - b1) g) + decay * theta), then m <- b2 m + (1 - b2) g.

    arXiv:2302.06675.  The paper takes a rate 3 to 10 times smaller than AdamW's and a decay as many times larger.
    Every update has size 1, so muP scales rates as AdamW's.
    `no_decay`, `layer_decay`, `momentum`, `clip` and `freeze` are as in `AdamW`.
    """

    rate: Schedule = Linear(1e-4)
    b1: float = 0.9
    b2: float = 0.99
    decay: float = 0.1
    no_decay: tuple[str, ...] | None = None
    layer_decay: float | None = None
    momentum: Literal["float32", "bfloat16"] = "float32"
    clip: float | None = 1.0
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_values(self, 0, 1, "b1", "b2")
        require_values(self, 0, math.inf, "decay")
        require_clip(self.clip)
        require_layer_decay("Lion", self.layer_decay)

    def build(self, steps: int, params: Params, roles: Roles | None = None) -> optax.GradientTransformation:
        """The optax transformation."""
        direction = optax.scale_by_lion(self.b1, self.b2, mu_dtype=self.momentum)
        if is_mup(roles):  # before the decay, whose product with the rate stays
            direction = optax.chain(direction, scale_by(map_growth(roles, lambda growth: 1 / growth.fan_in)))
        mask = mask_decayed(params, roles, self.no_decay)
        scales = None if self.layer_decay is None else compute_layer_scales(params, self.layer_decay)
        transform = descend(direction, self.rate.build(steps), self.decay, mask, scales)
        return route(clip_norm(self.clip, transform), params, roles, self.freeze)


@dataclasses.dataclass(frozen=True)
class Adafactor:
    """theta <- theta - rate * (size * u / max(1, rms(u) / bound) + decay * theta), u = g / sqrt(v).  arXiv:1804.04235.

    v is the mean of g^2 with weights 1 - t^-power at step t.  Of a matrix whose two largest axes have `factored` rows
    or more, v is kept as the means of its rows and of its columns; of any other parameter whole.  size is the
    parameter's root mean square, 0.001 at least, or 1 if `relative` is false; `bound` is the paper's clipping of
    updates, None for none.  There is no momentum.  Decay is times the rate, as in `AdamW`; optax's adafactor adds it
    without.  Repeats of a scanned stack are parameters of their own.  A model in muP is refused.
    """

    rate: Schedule = Linear(1e-2)
    power: float = 0.8
    factored: int = 128
    relative: bool = True
    bound: float | None = 1.0
    decay: float = 0.0
    no_decay: tuple[str, ...] | None = None
    layer_decay: float | None = None
    clip: float | None = None
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_values(self, 0, 1, "power")
        require_values(self, 0, math.inf, "decay")
        require_values(self, 1, math.inf, "factored")
        if self.bound is not None:
            require_values(self, 1, math.inf, "bound")
        require_clip(self.clip)
        require_layer_decay("Adafactor", self.layer_decay)

    def build(self, steps: int, params: Params, roles: Roles | None = None) -> optax.GradientTransformation:
        """The optax transformation.  Raises ValueError for a model in muP."""
        refuse_mup(roles, "Adafactor")
        chain = [optax.scale_by_factored_rms(decay_rate=self.power, min_dim_size_to_factor=self.factored)]
        chain += [] if self.bound is None else [optax.clip_by_block_rms(self.bound)]
        chain += [optax.scale_by_param_block_rms()] if self.relative else []
        mask = mask_decayed(params, roles, self.no_decay)
        scales = None if self.layer_decay is None else compute_layer_scales(params, self.layer_decay)
        direction = repeat_alone(optax.chain(*chain), params)
        transform = descend(direction, self.rate.build(steps), self.decay, mask, scales)
        return route(clip_norm(self.clip, transform), params, roles, self.freeze)
