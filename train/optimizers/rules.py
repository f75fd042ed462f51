"""Update rules as values over optax: every optimizer of optax is reachable, none is written again."""

import dataclasses
import inspect
import math
from collections.abc import Mapping
from typing import Literal

import optax

from models.structure import nearest
from train.contracts import Params, Roles, Schedule
from train.optimizers.schedules import Constant, Linear, require_values
from train.optimizers.transforms import (
    clip_norm,
    compute_layer_scales,
    descend,
    find_shrinkage,
    is_mup,
    map_growth,
    mask_decayed,
    refuse_mup,
    require_clip,
    require_layer_decay,
    route,
    scale_by,
)


@dataclasses.dataclass(frozen=True)
class SGD:
    """Gradient descent: theta <- theta - rate * gradient; with momentum, m <- momentum * m + gradient replaces it.

    `clip` bounds the global norm of the gradient; `freeze` holds parameters whose path matches a pattern.
    """

    rate: Schedule = Constant(0.1)
    momentum: float = 0.0
    nesterov: bool = False
    clip: float | None = None
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_values(self, 0, 1, "momentum")
        require_clip(self.clip)
        if self.nesterov and not self.momentum:
            raise ValueError(
                "SGD.nesterov is true and momentum is 0, of which it is a form; give a momentum, or leave nesterov out."
            )

    def build(self, steps: int, params: Params, roles: Roles | None = None) -> optax.GradientTransformation:
        """The optax transformation."""
        descend = optax.sgd(self.rate.build(steps), momentum=self.momentum or None, nesterov=self.nesterov)
        if is_mup(roles):
            descend = optax.chain(
                descend, scale_by(map_growth(roles, lambda growth: growth.fan_out / growth.fan_in * growth.depth))
            )
        return route(clip_norm(self.clip, descend), params, roles, self.freeze)


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay.  arXiv:1412.6980, arXiv:1711.05101.

    Paths that match `no_decay` are not decayed; None decays by the roles of parameters (`models.roles`): matrices and
    tables, not vectors and scalars.  `layer_decay` multiplies the rate of block l of the L of a stack by
    layer_decay^(L - l); the embedding counts as block -1, the head as L and repeats of a tied pattern as one (ULMFiT's
    discriminative rates, arXiv:1801.06146; as in BEiT, arXiv:2106.08254).  `momentum` is the dtype of the first moment:
    bfloat16 saves two bytes a parameter.
    """

    rate: Schedule = Linear(1e-3)
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    decay: float = 0.01
    no_decay: tuple[str, ...] | None = None
    layer_decay: float | None = None
    momentum: Literal["float32", "bfloat16"] = "float32"
    clip: float | None = 1.0
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_values(self, 0, 1, "b1", "b2")
        require_values(self, 0, math.inf, "epsilon", "decay")
        require_clip(self.clip)
        require_layer_decay("AdamW", self.layer_decay)

    def build(self, steps: int, params: Params, roles: Roles | None = None) -> optax.GradientTransformation:
        """The optax transformation."""
        epsilon = self.epsilon / find_shrinkage(roles)
        direction = optax.scale_by_adam(self.b1, self.b2, epsilon, mu_dtype=self.momentum)
        if is_mup(roles):  # before the decay, whose product with the rate stays
            direction = optax.chain(direction, scale_by(map_growth(roles, lambda growth: 1 / growth.fan_in)))
        mask = mask_decayed(params, roles, self.no_decay)
        scales = None if self.layer_decay is None else compute_layer_scales(params, self.layer_decay)
        transform = descend(direction, self.rate.build(steps), self.decay, mask, scales)
        return route(clip_norm(self.clip, transform), params, roles, self.freeze)


@dataclasses.dataclass(frozen=True)
class Optax:
    """An optimizer of optax by its name: Optax("lion", Cosine(1e-4), {"b1": 0.95}).

    Raises ValueError for a name that optax lacks.
    """

    name: str = "adam"
    rate: Schedule = Constant(1e-3)
    arguments: Mapping[str, object] = dataclasses.field(default_factory=dict)
    clip: float | None = None
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_clip(self.clip)
        if self.name not in (names := _list_optimizers()):
            raise ValueError(f"optax has no optimizer called {self.name!r}; {nearest(self.name, names)}")
        accepted = list(inspect.signature(getattr(optax, self.name)).parameters)
        for name in self.arguments:
            if name not in accepted:
                raise ValueError(f"optax.{self.name} has no argument {name!r}; {nearest(name, accepted)}")

    def build(self, steps: int, params: Params, roles: Roles | None = None) -> optax.GradientTransformation:
        """The optax transformation.  Raises ValueError for a model in muP."""
        refuse_mup(roles, f"optax.{self.name}")
        transform = getattr(optax, self.name)(self.rate.build(steps), **self.arguments)
        return route(clip_norm(self.clip, transform), params, roles, self.freeze)


def _list_optimizers() -> list[str]:
    """Lists the functions of optax that take a learning rate first."""
    return [
        name
        for name, value in vars(optax).items()
        if inspect.isfunction(value) and next(iter(inspect.signature(value).parameters), "") == "learning_rate"
    ]
