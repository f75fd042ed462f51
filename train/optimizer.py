"""Optimizers and learning-rate schedules as specs over optax: everything in optax is reachable, nothing is written again."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import optax

from models.parametrization import Role
from models.structure import nearest

Params = Any
Roles = Any  # a tree of Role like the parameters', where the model's parametrization is muP
NO_DECAY = ("bias$", "scale$", "norm")  # vectors that shift and scale


class Rate(Protocol):
    """A learning rate over training: `build(steps)` gives step -> rate."""

    def build(self, steps: int) -> Callable[[Any], Any]: ...


class Optimizer(Protocol):
    """`build(steps, params)` gives the optax transformation; its `rate` is a Rate.

    A model whose parametrization is muP gives the roles of its parameters too, which scale their rates: see `models.parametrization`.
    """

    def build(self, steps: int, params: Params, roles: Roles | None = None) -> optax.GradientTransformation: ...


def _count(part: float, steps: int) -> int:
    """Steps of a phase given as a fraction of training (below 1) or as a count."""
    return round(part * steps) if part < 1 else round(part)


@dataclasses.dataclass(frozen=True)
class Constant:
    """peak, after `warmup` (a fraction of training below 1, else steps) of linear rise."""

    peak: float = 1e-3
    warmup: float = 0.0

    def build(self, steps: int) -> Callable[[Any], Any]:
        """Step -> rate."""
        return _warmed(self.peak, _count(self.warmup, steps), optax.constant_schedule(self.peak))


@dataclasses.dataclass(frozen=True)
class Linear:
    """Linear rise to peak over `warmup`, then linear fall to `end * peak` at the last step."""

    peak: float = 1e-3
    warmup: float = 0.0
    end: float = 0.0

    def build(self, steps: int) -> Callable[[Any], Any]:
        """Step -> rate."""
        warmup = _count(self.warmup, steps)
        return _warmed(self.peak, warmup, optax.linear_schedule(self.peak, self.end * self.peak, max(steps - warmup, 1)))


@dataclasses.dataclass(frozen=True)
class Cosine:
    """Linear rise to peak over `warmup`, then peak * (end + (1 - end) * (1 + cos(pi p)) / 2) over the rest.  arXiv:1608.03983."""

    peak: float = 1e-3
    warmup: float = 0.0
    end: float = 0.0

    def build(self, steps: int) -> Callable[[Any], Any]:
        """Step -> rate."""
        warmup = _count(self.warmup, steps)
        return _warmed(self.peak, warmup, optax.cosine_decay_schedule(self.peak, max(steps - warmup, 1), self.end))


@dataclasses.dataclass(frozen=True)
class WarmupStableDecay:
    """Linear rise over `warmup`, peak, then linear fall to `end * peak` over `decay`.  MiniCPM, arXiv:2404.06395."""

    peak: float = 1e-3
    warmup: float = 0.05
    decay: float = 0.2
    end: float = 0.0

    def build(self, steps: int) -> Callable[[Any], Any]:
        """Step -> rate."""
        warmup, decay = _count(self.warmup, steps), max(_count(self.decay, steps), 1)
        fall = optax.linear_schedule(self.peak, self.end * self.peak, decay)
        stable = optax.join_schedules([optax.constant_schedule(self.peak), fall], [max(steps - warmup - decay, 0)])
        return _warmed(self.peak, warmup, stable)


def _warmed(peak: float, warmup: int, after: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup]) if warmup else after


@dataclasses.dataclass(frozen=True)
class SGD:
    """theta <- theta - rate * gradient; with momentum m <- momentum * m + gradient in its place.

    `clip` bounds the global norm of the gradient; `freeze` holds parameters whose path matches a pattern.
    """

    rate: Rate = Constant(0.1)
    momentum: float = 0.0
    nesterov: bool = False
    clip: float | None = None
    freeze: tuple[str, ...] = ()

    def build(self, steps: int, params: Params, roles: Roles | None = None) -> optax.GradientTransformation:
        """The optax transformation."""
        descend = optax.sgd(self.rate.build(steps), momentum=self.momentum or None, nesterov=self.nesterov)
        if roles is not None:
            descend = optax.chain(descend, _scaled(_by_role(roles, lambda role: role.fan_out / role.fan_in * role.depth)))
        return _frozen(_clipped(self.clip, descend), params, self.freeze)


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay.  arXiv:1412.6980, arXiv:1711.05101.

    Paths that match `no_decay` are not decayed.  `layer_decay` multiplies the rate of layer l of L by layer_decay^(L - l), the
    embedding counting as layer -1 and the head as L (ULMFiT's discriminative rates, arXiv:1801.06146; as in BEiT, arXiv:2106.08254).
    `momentum` is the type that the first moment is kept in: bfloat16 saves two bytes a parameter.
    """

    rate: Rate = Linear(1e-3)
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    decay: float = 0.01
    no_decay: tuple[str, ...] = NO_DECAY
    layer_decay: float | None = None
    momentum: Literal["float32", "bfloat16"] = "float32"
    clip: float | None = 1.0
    freeze: tuple[str, ...] = ()

    def build(self, steps: int, params: Params, roles: Roles | None = None) -> optax.GradientTransformation:
        """The optax transformation."""
        rate, epsilon = self.rate.build(steps), self.epsilon
        decayed = _tree_of(params, lambda path, _: not any(re.search(pattern, path) for pattern in self.no_decay))
        chain = [optax.add_decayed_weights(self.decay, mask=decayed)]
        if roles is not None:  # before the decay, whose product with the rate stays
            chain.insert(0, _scaled(_by_role(roles, lambda role: 1 / role.fan_in)))
            epsilon /= max(jax.tree.leaves(_by_role(roles, lambda role: max(role.fan_in, role.fan_out) * role.depth)))
        chain.insert(0, optax.scale_by_adam(self.b1, self.b2, epsilon, mu_dtype=self.momentum))
        if self.layer_decay is not None:
            chain.append(_scaled(layer_scales(params, self.layer_decay)))
        return _frozen(_clipped(self.clip, optax.chain(*chain, optax.scale_by_learning_rate(rate))), params, self.freeze)


@dataclasses.dataclass(frozen=True)
class Optax:
    """Any optimizer of optax by its name: Optax("lion", Cosine(1e-4), {"b1": 0.95}).  Raises ValueError for a name optax lacks."""

    name: str = "adam"
    rate: Rate = Constant(1e-3)
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    clip: float | None = None
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in (names := _optimizers()):
            raise ValueError(f"optax has no optimizer called {self.name!r}; {nearest(self.name, names)}")
        accepted = list(inspect.signature(getattr(optax, self.name)).parameters)
        for name in self.arguments:
            if name not in accepted:
                raise ValueError(f"optax.{self.name} has no argument {name!r}; {nearest(name, accepted)}")

    def build(self, steps: int, params: Params, roles: Roles | None = None) -> optax.GradientTransformation:
        """The optax transformation.  Raises ValueError for a model in muP."""
        if roles is not None:
            raise ValueError(f"muP's rates are known for AdamW and SGD, and the optimizer is optax.{self.name}; use one of these")
        return _frozen(_clipped(self.clip, getattr(optax, self.name)(self.rate.build(steps), **self.arguments)), params, self.freeze)


def _optimizers() -> list[str]:
    """Names of optax's functions that take a learning rate first."""
    found: list[str] = []
    for name, value in vars(optax).items():
        if inspect.isfunction(value) and next(iter(inspect.signature(value).parameters), "") == "learning_rate":
            found.append(name)
    return found


def _clipped(bound: float | None, transform: optax.GradientTransformation) -> optax.GradientTransformation:
    return transform if bound is None else optax.chain(optax.clip_by_global_norm(bound), transform)


def _frozen(transform: optax.GradientTransformation, params: Params, patterns: tuple[str, ...]) -> optax.GradientTransformation:
    if not patterns:
        return transform
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern in patterns:
        if not any(re.search(pattern, path) for path in paths):
            raise ValueError(f"freeze has {pattern!r}, which matches no parameter; they have names such as {paths[len(paths) // 2]!r}.")
    labels = _tree_of(params, lambda path, _: "frozen" if any(re.search(pattern, path) for pattern in patterns) else "trained")
    return optax.partition({"trained": transform, "frozen": optax.set_to_zero()}, labels)


def _by_role(roles: Roles, scale: Callable[[Role], float]) -> Params:
    return jax.tree.map(scale, roles)


def _scaled(scales: Params) -> optax.GradientTransformation:
    def scaled(scale: Any, update: Any) -> Any:
        return update if isinstance(update, optax.MaskedNode) else update * scale  # a frozen parameter has no update

    return optax.stateless(lambda updates, _: jax.tree.map(scaled, scales, updates))


def layer_scales(params: Params, decay: float) -> Params:
    """decay^(L - l) for each parameter: a number, or one for each row of a scanned parameter."""
    paths = jax.tree_util.tree_leaves_with_path(params)
    depth = 0
    for path, leaf in paths:
        name = path_name(path)
        if found := re.search(r"layer_(\d+)/", name):
            depth = max(depth, int(found[1]) + 1)
        elif found := re.search(r"blocks/block_(\d+)/", name):
            width = len({match[1] for other, _ in paths if (match := re.search(r"blocks/block_(\d+)/", path_name(other)))})
            depth = max(depth, leaf.shape[0] * width)

    def scale(name: str, leaf: Any) -> Any:
        if found := re.search(r"layer_(\d+)/", name):
            return decay ** (depth - int(found[1]))
        if found := re.search(r"blocks/block_(\d+)/", name):
            rows = jnp.arange(leaf.shape[0]) * (depth // leaf.shape[0]) + int(found[1])
            return (decay ** (depth - rows)).reshape(-1, *[1] * (len(leaf.shape) - 1))
        return decay ** (depth + 1) if "embed" in name else 1.0

    return _tree_of(params, scale)


def path_name(path: tuple[Any, ...]) -> str:
    """A tree path as `stack/layer_0/mixer/query/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _tree_of(params: Params, function: Callable[[str, Any], Any]) -> Params:
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(path_name(path), leaf), params)
