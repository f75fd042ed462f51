"""muP and depth-muP: what follows width and depth, so that the settings tuned on a small model serve a large one.

A model with parametrization="mup" computes, starts and learns as its base, the same model of `base_width` and
`base_depth`, in what does not depend on size.  With m_d = width / base_width and m_l = depth / base_depth
(arXiv:2203.03466, table 8, and CompleteP, arXiv:2505.01618, with alpha = 1):

    branches of a block     times 1 / m_l
    logits over a table     times 1 / m_d
    attention scores        q k^T 8 / k in place of q k^T / sqrt(k): the same for heads of width 64
    matrices                start with 1 / m_in of the base's variance; AdamW's rate times 1 / m_in; SGD's times
                            m_out / m_in
    all other parameters    start as they are; AdamW's rate as it is; SGD's times m_out
    from width to a fixed   as matrices, but start with 1 / m_in^2 of the variance: a head's last, routers, vectors
                            that give a score
    AdamW                   epsilon times 1 / (m_d m_l); weight decay times m_in, so that its product with
                            the rate stays
    SGD                     rates inside blocks times m_l, which undo the branches' 1 / m_l
    Lion, Muon              as AdamW; Muon's matrices have updates whose singular values grow as sqrt(m_out / m_in)

m_in tells how much longer than in the base the axes are that products with a parameter sum over, m_out the others.
Lengths are read off the shapes of both models and sums off the traced program, so a vector that is multiplied with the
stream and summed counts as a matrix with one column, whoever wrote the class; `Role.inputs` says otherwise if a
component scales its product itself.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Literal, Protocol, TypeVar, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.module import InterceptorContext

from models.backend.platform import compile_for
from models.context import Base, Context
from models.contracts import Batch, Model, Shrinks, Tree
from models.depth.block import Block
from models.paths import Layer, count_stacked, map_paths
from models.products import trace_sums
from models.roles import Growth, Role, roles_of
from models.structure import replace

Value = TypeVar("Value")
Parametrization = Literal["standard", "mup"]
# Names of the matrices that determine the size of a branch's output, by branch of a block.
SHRUNK = {
    "mixer": frozenset({"value", "out"}),
    "cross": frozenset({"value", "out"}),
    "feedforward": frozenset({"gate", "up", "down", "key", "value", "out"}),
}


@runtime_checkable
class Parametrized(Protocol):
    """A model with a parametrization, and the sizes of its base model."""

    @property
    def parametrization(self) -> str: ...

    @property
    def base_width(self) -> int: ...

    @property
    def base_depth(self) -> int: ...


@runtime_checkable
class Embeds(Protocol):
    """A model with an embed."""

    @property
    def embed(self) -> object: ...


@runtime_checkable
class Wide(Protocol):
    """An embed with a width, that of its vectors."""

    @property
    def width(self) -> int: ...


def base_of(model: Parametrized) -> Base | None:
    """The base of a model under muP, for its layers; None if the parametrization is the standard one.

    Raises ValueError if base_width or base_depth is not positive, or the parametrization has another name.
    """
    if model.parametrization not in ("standard", "mup"):
        raise ValueError(
            f"{type(model).__name__}.parametrization is {model.parametrization!r}; give 'standard' or 'mup'."
        )
    for name in ("base_width", "base_depth"):
        if getattr(model, name) < 1:
            raise ValueError(f"{type(model).__name__}.{name} is {getattr(model, name)}; it must be above 0.")
    return Base(model.base_width, model.base_depth) if model.parametrization == "mup" else None


def width_of(model: object) -> int:
    """The width of a model, its embed's.  Raises ValueError for an embed that has no field `width`."""
    embed = model.embed if isinstance(model, Embeds) else None
    if not isinstance(embed, Wide):
        raise ValueError(
            f"The model's width is that of its embed, and {type(embed).__name__} has no field `width`; give it one."
        )
    return embed.width


def widen(model: Value, width: int) -> Value:
    """The same model at another width.  Raises ValueError for an embed that has no field `width`."""
    width_of(model)
    for name in ("embed", "source_embed"):
        if getattr(model, name, None) is not None:
            model = replace(model, f"{name}.width", width)
    return model


def roles(model: Model, batch: Batch) -> Tree:
    """The Role of each parameter, as a tree like the parameters'; growth is None for the standard parametrization.

    Traced on a batch (arrays or shapes), nothing is computed.
    """
    declared = roles_of(model, batch)
    if not isinstance(model, Parametrized) or model.parametrization == "standard":
        return declared
    shapes = _shapes(model, batch)
    with compile_for("cpu"):  # its programs have no opaque kernels
        summed, lost = trace_sums(lambda params, batch: model.apply({"params": params}, batch), shapes, dict(batch))
    try:
        base = _shapes(widen(model, model.base_width), batch)
    except ValueError as error:
        raise ValueError(f"The base model of base_width={model.base_width} cannot be built: {error}") from None

    def grow(
        path: str,
        role: Role,
        leaf: jax.ShapeDtypeStruct,
        other: jax.ShapeDtypeStruct,
        traced: frozenset[int],
        unread: bool,
    ) -> Role:
        names, growth = path.split("/"), [new / old for new, old in zip(leaf.shape, other.shape, strict=True)]
        axes = role.inputs
        if axes is None:
            if unread and not traced and len(growth) == 1 and growth != [1]:
                raise ValueError(
                    f"muP cannot read how the vector {path} is used; declare it in its class, roles ="
                    f" {{{names[-1]!r}: Role(inputs=())}} if it is multiplied element by element, or"
                    " Role(inputs=(-1,)) if products sum over it."
                )
            axes = tuple(traced) if traced or not unread else (-2,)[: len(growth) - 1]
        fan_in = math.prod(growth[axis] for axis in axes)
        fan_out = math.prod(size for axis, size in enumerate(growth, -len(growth)) if axis not in axes)
        depth = getattr(getattr(model, names[0], None), "depth", None)  # of the stack around it
        share = depth / model.base_depth if depth is not None and Layer.of(path) is not None else 1.0
        readout = fan_in > 1 and fan_out == 1
        return dataclasses.replace(role, growth=Growth(fan_in, fan_out, share, readout))

    return map_paths(grow, declared, shapes, base, summed, lost)


def initialised(model: Model, key: jax.Array, batch: Batch) -> dict[str, Tree]:
    """{"params": ...} as `model.init(key, batch)` gives them, scaled as residuals and the parametrization ask."""
    gains = dict[str, float]()
    with nn.intercept_methods(functools.partial(_note_gain, gains)):
        variables = model.init(key, batch)
    if not isinstance(model, Parametrized) or model.parametrization == "standard":
        return variables | {"params": shrink(variables["params"], gains)}

    def rescale(values: jax.Array, other: jax.Array, role: Role) -> jax.Array:
        growth = role.growth or Growth()
        if growth.fan_in == 1:
            return values
        wanted = _size(other) * growth.fan_in ** (-1.0 if growth.readout else -0.5)
        return (values * (wanted / jnp.maximum(_size(values), 1e-30))).astype(values.dtype)

    base = widen(model, model.base_width).init(key, batch)["params"]
    params = jax.tree.map(rescale, variables["params"], base, roles(model, batch))
    return {"params": shrink(params, gains)}


def _note_gain(
    gains: dict[str, float],
    run: Callable[..., object],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    at: InterceptorContext,
) -> object:
    """Notes the gain of each branch of a block by its path, if the block's residual shrinks first values."""
    block = at.module
    if isinstance(block, Block) and at.method_name == "__call__" and isinstance(block.residual, Shrinks):
        ctx = kwargs["ctx"] if "ctx" in kwargs else args[1]
        assert isinstance(ctx, Context)
        gains.update({"/".join((*block.path, name)): block.residual.first_gain(ctx) for name in SHRUNK})
    return run(*args, **kwargs)


def shrink(params: Tree, gains: Mapping[str, float]) -> Tree:
    """The parameters with the matrices of SHRUNK in a branch times the gain at its path: `stack/layer_0/mixer`."""

    def scale(path: str, leaf: jax.Array) -> jax.Array:
        names = path.split("/")
        for length in range(1, len(names)):
            gain, branch = gains.get("/".join(names[:length]), 1.0), names[length - 1]
            if gain != 1 and leaf.ndim - count_stacked(path) >= 2 and not SHRUNK[branch].isdisjoint(names[length:]):
                return (leaf * gain).astype(leaf.dtype)
        return leaf

    return map_paths(scale, params) if gains else params


def _size(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32))))


def _shapes(model: Model, batch: Batch) -> Tree:
    return jax.eval_shape(lambda batch: model.init(jax.random.key(0), batch), dict(batch))["params"]
