"""Update rules as values over optax: every optimizer of optax is reachable, none is written again."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Literal

import jax
import optax

from models.paths import map_paths, select
from models.roles import Growth, default_roles
from models.structure import nearest
from train.contracts import Params, Roles, Schedule
from train.optimizers.schedules import Constant, Linear, require_values
from train.optimizers.transforms import compute_layer_scales, is_mup, route


def _require_clip(bound: float | None) -> None:
    if bound is not None and not 0 < bound < math.inf:
        raise ValueError(
            f"The optimizer's clip is {bound}; give a norm above 0, or none to leave gradients as they are."
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
        _require_clip(self.clip)
        if self.nesterov and not self.momentum:
            raise ValueError(
                "SGD.nesterov is true and momentum is 0, of which it is a form; give a momentum, or leave nesterov out."
            )

    def build(self, steps: int, params: Params, roles: Roles | None = None) -> optax.GradientTransformation:
        """The optax transformation."""
        descend = optax.sgd(self.rate.build(steps), momentum=self.momentum or None, nesterov=self.nesterov)
        if is_mup(roles):
            descend = optax.chain(
                descend, _scale_by(_map_growth(roles, lambda growth: growth.fan_out / growth.fan_in * growth.depth))
            )
        return route(_clip(self.clip, descend), params, roles, self.freeze)


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
        _require_clip(self.clip)
        if self.layer_decay is not None and not 0 < self.layer_decay < math.inf:
            raise ValueError(f"AdamW.layer_decay is {self.layer_decay}; it must be a number above 0.")

    def build(self, steps: int, params: Params, roles: Roles | None = None) -> optax.GradientTransformation:
        """The optax transformation."""
        rate, epsilon = self.rate.build(steps), self.epsilon
        if (patterns := self.no_decay) is None:
            mask = jax.tree.map(lambda role: bool(role.decay), default_roles(params) if roles is None else roles)
        else:
            match = select(patterns)
            mask = map_paths(lambda path, _: match(path) is None, params)
        chain = [optax.add_decayed_weights(self.decay, mask=mask)]
        if is_mup(roles):  # before the decay, whose product with the rate stays
            chain.insert(0, _scale_by(_map_growth(roles, lambda growth: 1 / growth.fan_in)))
            epsilon /= max(
                jax.tree.leaves(_map_growth(roles, lambda growth: max(growth.fan_in, growth.fan_out) * growth.depth))
            )
        chain.insert(0, optax.scale_by_adam(self.b1, self.b2, epsilon, mu_dtype=self.momentum))
        if self.layer_decay is not None:
            chain.append(_scale_by(compute_layer_scales(params, self.layer_decay)))
        return route(
            _clip(self.clip, optax.chain(*chain, optax.scale_by_learning_rate(rate))), params, roles, self.freeze
        )


@dataclasses.dataclass(frozen=True)
class Optax:
    """Any optimizer of optax by its name: Optax("lion", Cosine(1e-4), {"b1": 0.95}).

    Raises ValueError for a name that optax lacks.
    """

    name: str = "adam"
    rate: Schedule = Constant(1e-3)
    arguments: Mapping[str, object] = dataclasses.field(default_factory=dict)
    clip: float | None = None
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_clip(self.clip)
        if self.name not in (names := _list_optimizers()):
            raise ValueError(f"optax has no optimizer called {self.name!r}; {nearest(self.name, names)}")
        accepted = list(inspect.signature(getattr(optax, self.name)).parameters)
        for name in self.arguments:
            if name not in accepted:
                raise ValueError(f"optax.{self.name} has no argument {name!r}; {nearest(name, accepted)}")

    def build(self, steps: int, params: Params, roles: Roles | None = None) -> optax.GradientTransformation:
        """The optax transformation.  Raises ValueError for a model in muP."""
        if is_mup(roles):
            raise ValueError(
                f"muP's rates are known for AdamW and SGD, and the optimizer is optax.{self.name}; use one of these"
            )
        transform = getattr(optax, self.name)(self.rate.build(steps), **self.arguments)
        return route(_clip(self.clip, transform), params, roles, self.freeze)


def _list_optimizers() -> list[str]:
    """Lists the functions of optax that take a learning rate first."""
    return [
        name
        for name, value in vars(optax).items()
        if inspect.isfunction(value) and next(iter(inspect.signature(value).parameters), "") == "learning_rate"
    ]


def _clip(bound: float | None, transform: optax.GradientTransformation) -> optax.GradientTransformation:
    return transform if bound is None else optax.chain(optax.clip_by_global_norm(bound), transform)


def _map_growth(roles: Roles, scale: Callable[[Growth], float]) -> Params:
    return jax.tree.map(lambda role: scale(role.growth or Growth()), roles)


def _scale_by(scales: Params) -> optax.GradientTransformation:
    def scale_leaf(scale: jax.Array | float, update: jax.Array | optax.MaskedNode) -> jax.Array | optax.MaskedNode:
        return update if isinstance(update, optax.MaskedNode) else update * scale  # a frozen parameter has no update

    return optax.stateless(lambda updates, _: jax.tree.map(scale_leaf, scales, updates))
