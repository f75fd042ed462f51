"""Optimizers and learning-rate schedules as specs over optax: everything in optax is reachable, nothing is written again."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from models.paths import Layer, map_paths, path_name, select
from models.roles import Growth, Role, default_roles
from models.structure import nearest
from train.contracts import Params, Roles, Schedule


def _count(part: float, steps: int) -> int:
    """Steps of a phase given as a fraction of training (below 1) or as a count."""
    return round(part * steps) if part < 1 else round(part)


def _require(value: Any, least: float, below: float, *names: str) -> None:
    for name in names:
        if not least <= (number := getattr(value, name)) < below:
            bound = f" and below {below:g}" if below < math.inf else ", and finite"
            raise ValueError(f"{type(value).__name__}.{name} is {number}; it must be {least:g} or above{bound}.")


def _require_clip(bound: float | None) -> None:
    if bound is not None and not 0 < bound < math.inf:
        raise ValueError(f"The optimizer's clip is {bound}; give a norm above 0, or none to leave gradients as they are.")


def unreached(rate: Any, steps: int) -> str:
    """What a schedule announces and so many steps of training do not reach, in a sentence; empty if all is reached."""
    known = {name: getattr(rate, name, None) for name in ("warmup", "decay")}
    phases = {name: _count(part, steps) for name, part in known.items() if isinstance(part, int | float)}
    warmup, total = phases.get("warmup", 0), sum(phases.values())
    if warmup >= max(steps, 2):
        return (
            f"optimizer.rate.warmup is {warmup} steps and training has {steps}, so the rate never reaches its peak;"
            " lower optimizer.rate.warmup (below 1 it is a part of training) or train for more steps"
        )
    if "decay" in phases and total > steps:
        return (
            f"optimizer.rate.warmup and optimizer.rate.decay are {total} steps and training has {steps}, so the rate falls before it is"
            " at its peak; lower one of them (below 1 each is a part of training)"
        )
    return ""


@dataclasses.dataclass(frozen=True)
class Constant:
    """peak, after `warmup` (a fraction of training below 1, else steps) of linear rise."""

    peak: float = 1e-3
    warmup: float = 0.0

    def __post_init__(self) -> None:
        _require(self, 0, math.inf, "peak", "warmup")

    def build(self, steps: int) -> Callable[[Any], Any]:
        """Step -> rate."""
        return _warmed(self.peak, _count(self.warmup, steps), optax.constant_schedule(self.peak))


@dataclasses.dataclass(frozen=True)
class Linear:
    """Linear rise to peak over `warmup`, then linear fall to `end * peak` at the last step."""

    peak: float = 1e-3
    warmup: float = 0.0
    end: float = 0.0

    def __post_init__(self) -> None:
        _require(self, 0, math.inf, "peak", "warmup", "end")

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

    def __post_init__(self) -> None:
        _require(self, 0, math.inf, "peak", "warmup", "end")

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

    def __post_init__(self) -> None:
        _require(self, 0, math.inf, "peak", "warmup", "decay", "end")

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

    rate: Schedule = Constant(0.1)
    momentum: float = 0.0
    nesterov: bool = False
    clip: float | None = None
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(self, 0, 1, "momentum")
        _require_clip(self.clip)
        if self.nesterov and not self.momentum:
            raise ValueError("SGD.nesterov is true and momentum is 0, of which it is a form; give a momentum, or leave nesterov out.")

    def build(self, steps: int, params: Params, roles: Roles | None = None) -> optax.GradientTransformation:
        """The optax transformation."""
        descend = optax.sgd(self.rate.build(steps), momentum=self.momentum or None, nesterov=self.nesterov)
        if in_mup(roles):
            descend = optax.chain(descend, _scaled(_by_growth(roles, lambda growth: growth.fan_out / growth.fan_in * growth.depth)))
        return routed(_clipped(self.clip, descend), params, roles, self.freeze)


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay.  arXiv:1412.6980, arXiv:1711.05101.

    Paths that match `no_decay` are not decayed; None decays by the roles of parameters (`models.roles`): matrices and tables,
    not vectors and numbers.  `layer_decay` multiplies the rate of block l of the L of a stack by layer_decay^(L - l), the
    embedding counting as block -1, the head as L and repeats of a tied pattern as one (ULMFiT's discriminative rates,
    arXiv:1801.06146; as in BEiT, arXiv:2106.08254).
    `momentum` is the type that the first moment is kept in: bfloat16 saves two bytes a parameter.
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
        _require(self, 0, 1, "b1", "b2")
        _require(self, 0, math.inf, "epsilon", "decay")
        _require_clip(self.clip)
        if self.layer_decay is not None and not 0 < self.layer_decay < math.inf:
            raise ValueError(f"AdamW.layer_decay is {self.layer_decay}; it must be a number above 0.")

    def build(self, steps: int, params: Params, roles: Roles | None = None) -> optax.GradientTransformation:
        """The optax transformation."""
        rate, epsilon = self.rate.build(steps), self.epsilon
        if (patterns := self.no_decay) is None:
            decayed = jax.tree.map(lambda role: bool(role.decay), default_roles(params) if roles is None else roles)
        else:
            kept = select(patterns)
            decayed = map_paths(lambda path, _: kept(path) is None, params)
        chain = [optax.add_decayed_weights(self.decay, mask=decayed)]
        if in_mup(roles):  # before the decay, whose product with the rate stays
            chain.insert(0, _scaled(_by_growth(roles, lambda growth: 1 / growth.fan_in)))
            epsilon /= max(jax.tree.leaves(_by_growth(roles, lambda growth: max(growth.fan_in, growth.fan_out) * growth.depth)))
        chain.insert(0, optax.scale_by_adam(self.b1, self.b2, epsilon, mu_dtype=self.momentum))
        if self.layer_decay is not None:
            chain.append(_scaled(layer_scales(params, self.layer_decay)))
        return routed(_clipped(self.clip, optax.chain(*chain, optax.scale_by_learning_rate(rate))), params, roles, self.freeze)


@dataclasses.dataclass(frozen=True)
class Optax:
    """Any optimizer of optax by its name: Optax("lion", Cosine(1e-4), {"b1": 0.95}).  Raises ValueError for a name optax lacks."""

    name: str = "adam"
    rate: Schedule = Constant(1e-3)
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    clip: float | None = None
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_clip(self.clip)
        if self.name not in (names := _optimizers()):
            raise ValueError(f"optax has no optimizer called {self.name!r}; {nearest(self.name, names)}")
        accepted = list(inspect.signature(getattr(optax, self.name)).parameters)
        for name in self.arguments:
            if name not in accepted:
                raise ValueError(f"optax.{self.name} has no argument {name!r}; {nearest(name, accepted)}")

    def build(self, steps: int, params: Params, roles: Roles | None = None) -> optax.GradientTransformation:
        """The optax transformation.  Raises ValueError for a model in muP."""
        if in_mup(roles):
            raise ValueError(f"muP's rates are known for AdamW and SGD, and the optimizer is optax.{self.name}; use one of these")
        made = getattr(optax, self.name)(self.rate.build(steps), **self.arguments)
        return routed(_clipped(self.clip, made), params, roles, self.freeze)


def _optimizers() -> list[str]:
    """Names of optax's functions that take a learning rate first."""
    found: list[str] = []
    for name, value in vars(optax).items():
        if inspect.isfunction(value) and next(iter(inspect.signature(value).parameters), "") == "learning_rate":
            found.append(name)
    return found


def _clipped(bound: float | None, transform: optax.GradientTransformation) -> optax.GradientTransformation:
    return transform if bound is None else optax.chain(optax.clip_by_global_norm(bound), transform)


def routed(transform: optax.GradientTransformation, params: Params, roles: Roles | None, freeze: tuple[str, ...] = ()) -> Any:
    """The transformation for what it moves: what matches `freeze` stays, and what has a `step` in its role moves by that.

    What moves otherwise enters no norm of the transformation and has no state in it.  Raises ValueError for a pattern of no parameter.
    """
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern in freeze:
        if not any(map(select((pattern,)), paths)):
            raise ValueError(f"freeze has {pattern!r}, which matches no parameter; they have names such as {paths[len(paths) // 2]!r}.")
    transforms: dict[Hashable, optax.GradientTransformation] = {"trained": transform, "frozen": optax.set_to_zero()}
    frozen = select(freeze)

    def label(path: str, role: Role) -> str:
        if frozen(path) is not None:
            return "frozen"
        if role.step is None:
            return "trained"
        transforms[name := f"step {role.step:g}"] = _signed(role.step)
        return name

    labels = map_paths(label, default_roles(params) if roles is None else roles)
    return transform if set(jax.tree.leaves(labels)) <= {"trained"} else optax.partition(transforms, labels)


def _signed(step: float) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, _: jax.tree.map(lambda update: -step * jnp.sign(update), updates))


def in_mup(roles: Roles | None) -> bool:
    """Whether the roles are those of a model whose parametrization is muP."""
    return any(role.growth is not None for role in jax.tree.leaves(roles))


def _by_growth(roles: Roles, scale: Callable[[Growth], float]) -> Params:
    return jax.tree.map(lambda role: scale(role.growth or Growth()), roles)


def _scaled(scales: Params) -> optax.GradientTransformation:
    def scaled(scale: Any, update: Any) -> Any:
        return update if isinstance(update, optax.MaskedNode) else update * scale  # a frozen parameter has no update

    return optax.stateless(lambda updates, _: jax.tree.map(scaled, scales, updates))


def layer_scales(params: Params, decay: float) -> Params:
    """decay^(L - l) for each parameter, l its block of the L of its stack: a number, or one for each row of a scanned parameter.

    The embedding is below the first block, what else is in no stack has 1.  Repeats of a tied pattern are one.  Raises ValueError if
    there is no stack.
    """
    paths = [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    counts: dict[str, dict[str, int]] = {}  # of each stack: blocks of its prefix, blocks of its pattern, and of these the repeats
    for name, leaf in paths:
        if layer := Layer.of(name):
            own = counts.setdefault(layer.stack, {"prefix": 0, "pattern": 0, "repeats": 1})
            part = "prefix" if layer.kind == "prefix" else "pattern"
            own[part] = max(own[part], layer.index + 1)
            own["repeats"] = leaf.shape[0] if layer.kind == "scan" else own["repeats"]
    if not counts:
        raise ValueError("layer_decay has a rate for each block of a stack, and no parameter is in one; leave layer_decay out.")
    depths = {stack: own["prefix"] + own["pattern"] * own["repeats"] for stack, own in counts.items()}

    def scale(name: str, leaf: Any) -> Any:
        if (layer := Layer.of(name)) is None:
            return decay ** (max(depths.values()) + 1) if name.split("/")[0].endswith("embed") else 1.0
        own, depth = counts[layer.stack], depths[layer.stack]
        place = layer.index + (0 if layer.kind == "prefix" else own["prefix"])
        if layer.kind != "scan":
            return decay ** (depth - place)
        rows = place + jnp.arange(leaf.shape[0]) * own["pattern"]
        return (decay ** (depth - rows)).reshape(-1, *[1] * (len(leaf.shape) - 1))

    return map_paths(scale, params)
