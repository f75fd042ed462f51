"""Families of published weights: builders of structures from configs, and rules between tensors and parameters.

One file of this package a family.  It is found by the `Family` that it defines:

    FAMILY = Family("mine", build, describe, rules)

    def rules(model, config):
        d = part(model, "embed.width")
        return [
            Rule("embed.weight", "embed/token"),
            Rule("layers.{}.mlp.weight", "stack/layer_{}/feedforward/up/kernel", Transpose()),
            Rule("layers.{}.qkv.weight",
                 tuple(f"stack/layer_{{}}/mixer/{name}/kernel" for name in ("query", "key", "value")),
                 Transpose(), Split(axis=1, sizes=(d, d, d))),
        ]
"""

import dataclasses
import importlib
import math
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Protocol, TypeVar

import jax
import numpy as np

from models.paths import Layer
from models.transformer import Transformer

Array = np.ndarray | jax.Array
Arrays = tuple[Array, ...]
Made = TypeVar("Made")


class Op(Protocol):
    """An invertible change of a tuple of arrays: op.undo(op.apply(arrays)) == arrays, bit by bit.

    Both raise ValueError, in a sentence without a full stop, for arrays whose shapes the op does not take.
    """

    def apply(self, arrays: Arrays) -> Arrays: ...

    def undo(self, arrays: Arrays) -> Arrays: ...


@dataclasses.dataclass(frozen=True)
class Inverse:
    """The inverse of an op: `Inverse(Split(0, (4, 2)))` joins, `Inverse(Stack())` takes apart."""

    op: Op

    def apply(self, arrays: Arrays) -> Arrays:
        """Undoes the op."""
        return self.op.undo(arrays)

    def undo(self, arrays: Arrays) -> Arrays:
        """Applies the op."""
        return self.op.apply(arrays)


@dataclasses.dataclass(frozen=True)
class Transpose:
    """The last two axes of each array swapped: (..., m, n) -> (..., n, m), as PyTorch's linear maps are stored.

    Its own inverse.
    """

    def apply(self, arrays: Arrays) -> Arrays:
        """(..., m, n) -> (..., n, m)."""
        for array in arrays:
            if array.ndim < 2:
                raise ValueError(f"Transpose takes arrays of two axes or more, not one of shape {array.shape}")
        return tuple(array.swapaxes(-1, -2) for array in arrays)

    def undo(self, arrays: Arrays) -> Arrays:
        """(..., n, m) -> (..., m, n)."""
        return self.apply(arrays)


@dataclasses.dataclass(frozen=True)
class Permute:
    """The axes of each array in another order: axis i of the result is axis axes[i].  argsort(axes) inverts it."""

    axes: tuple[int, ...]

    def __post_init__(self) -> None:
        if sorted(self.axes) != list(range(len(self.axes))):
            raise ValueError(f"Permute.axes is {self.axes}; give each of the axes from 0 to {len(self.axes) - 1} once.")

    def apply(self, arrays: Arrays) -> Arrays:
        """Axis axes[i] to place i."""
        return self._by(self.axes, arrays)

    def undo(self, arrays: Arrays) -> Arrays:
        """Axis i to place axes[i]."""
        return self._by(tuple(int(axis) for axis in np.argsort(self.axes)), arrays)

    def _by(self, axes: tuple[int, ...], arrays: Arrays) -> Arrays:
        for array in arrays:
            if array.ndim != len(axes):
                raise ValueError(f"Permute takes arrays of {len(axes)} axes, not one of shape {array.shape}")
        return tuple(array.transpose(axes) for array in arrays)


@dataclasses.dataclass(frozen=True)
class Reshape:
    """The same numbers in the same order and another shape, `before` -> `after`; one size of each may be -1."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    def __post_init__(self) -> None:
        for shape in (self.before, self.after):
            if shape.count(-1) > 1 or any(size < 1 and size != -1 for size in shape):
                raise ValueError(f"Reshape has the shape {shape}; give sizes of 1 or more, one of them -1 at most.")
        if -1 not in (*self.before, *self.after) and math.prod(self.before) != math.prod(self.after):
            raise ValueError(f"Reshape from {self.before} to {self.after} changes the number of values.")

    def apply(self, arrays: Arrays) -> Arrays:
        """before -> after."""
        return self._between(self.before, self.after, arrays)

    def undo(self, arrays: Arrays) -> Arrays:
        """after -> before."""
        return self._between(self.after, self.before, arrays)

    def _between(self, old: tuple[int, ...], new: tuple[int, ...], arrays: Arrays) -> Arrays:
        whole, left = -math.prod(new) if -1 in new else math.prod(new), -1 in new
        for array in arrays:
            fits = len(old) == array.ndim and all(size in (-1, n) for size, n in zip(old, array.shape, strict=True))
            if not fits or (array.size % whole if left else array.size != whole):
                raise ValueError(f"Reshape takes arrays of shape {old} to {new}, not one of shape {array.shape}")
        return tuple(array.reshape(new) for array in arrays)


@dataclasses.dataclass(frozen=True)
class Split:
    """One array cut along an axis into parts of these sizes.  Its inverse joins them."""

    axis: int
    sizes: tuple[int, ...]

    def apply(self, arrays: Arrays) -> Arrays:
        """One array -> len(sizes) arrays."""
        if len(arrays) != 1 or not self._has(arrays[0], sum(self.sizes)):
            raise ValueError(
                f"Split takes one array of {sum(self.sizes)} along axis {self.axis}, not {_shapes(arrays)}"
            )
        ends = np.cumsum(self.sizes)
        before = (slice(None),) * (self.axis % arrays[0].ndim)
        return tuple(
            arrays[0][(*before, slice(int(end) - size, int(end)))] for end, size in zip(ends, self.sizes, strict=True)
        )

    def undo(self, arrays: Arrays) -> Arrays:
        """len(sizes) arrays -> one array."""
        fit = len(arrays) == len(self.sizes) and all(map(self._has, arrays, self.sizes))
        if not fit or len({_without(array.shape, self.axis) for array in arrays}) > 1:
            raise ValueError(f"Split joins arrays of {_and(self.sizes)} along axis {self.axis}, not {_shapes(arrays)}")
        return (arrays[0].__array_namespace__().concatenate(arrays, axis=self.axis),)

    def _has(self, array: Array, size: int) -> bool:
        return -array.ndim <= self.axis < array.ndim and array.shape[self.axis] == size


@dataclasses.dataclass(frozen=True)
class Stack:
    """Arrays of one shape as one, along a new axis.  Its inverse takes them apart."""

    axis: int = 0

    def apply(self, arrays: Arrays) -> Arrays:
        """n arrays -> one array with an axis of n."""
        if not arrays or len({array.shape for array in arrays}) > 1:
            raise ValueError(f"Stack takes arrays of one shape, not {_shapes(arrays)}")
        return (arrays[0].__array_namespace__().stack(arrays, axis=self.axis),)

    def undo(self, arrays: Arrays) -> Arrays:
        """One array with an axis of n -> n arrays."""
        if len(arrays) != 1 or not -arrays[0].ndim <= self.axis < arrays[0].ndim:
            raise ValueError(f"Stack takes apart one array with an axis {self.axis}, not {_shapes(arrays)}")
        before = (slice(None),) * (self.axis % arrays[0].ndim)
        return tuple(arrays[0][(*before, index)] for index in range(arrays[0].shape[self.axis]))


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """A shape without an axis."""
    return tuple(size for index, size in enumerate(shape) if index != axis % len(shape))


def _shapes(arrays: Arrays) -> str:
    return " and ".join(str(tuple(array.shape)) for array in arrays) or "none"


def _and(sizes: Sequence[int]) -> str:
    return " and ".join(map(str, sizes))


@dataclasses.dataclass(frozen=True, init=False)
class Rule:
    """Maps tensors `theirs` to parameters `ours` by the ops in turn; several names on a side if an op splits or stacks.

    `{}` in every name is the layer, counted from the first block of `stack`; in names without it there is none.  With
    `written` false the rule reads only: another name, or another source, of what a later rule reads and writes.  Of
    rules for one parameter the first whose tensors are there is read.  Raises ValueError for names of which some alone
    have a layer.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    ops: tuple[Op, ...]
    written: bool

    def __init__(
        self, theirs: str | tuple[str, ...], ours: str | tuple[str, ...], *ops: Op, written: bool = True
    ) -> None:
        names = [(name,) if isinstance(name, str) else tuple(name) for name in (theirs, ours)]
        if len({name.count("{}") for name in (*names[0], *names[1])}) != 1:
            raise ValueError(
                f"Rule({theirs!r}, {ours!r}) has the layer, {{}}, in some of its names; write it in all, or in none."
            )
        for name, value in zip(("theirs", "ours", "ops", "written"), (*names, ops, written), strict=True):
            object.__setattr__(self, name, value)

    def places(self, depth: int) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
        """The names of tensors and of parameters for each of `depth` layers, or once if the rule has no layer."""
        for layer in range(depth if "{}" in self.ours[0] else 1):
            yield (
                tuple(name.replace("{}", str(layer)) for name in self.theirs),
                tuple(name.replace("{}", str(layer)) for name in self.ours),
            )

    def read(self, tensors: Arrays) -> Arrays:
        """Parameters from tensors.  Raises ValueError if an op does not take them or their number differs."""
        for op in self.ops:
            tensors = op.apply(tensors)
        return self._counted(tensors, self.ours)

    def write(self, parameters: Arrays) -> Arrays:
        """Tensors from parameters.  Raises ValueError as `read` does."""
        for op in reversed(self.ops):
            parameters = op.undo(parameters)
        return self._counted(parameters, self.theirs)

    def shapes(self, tensors: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
        """The shapes of parameters from those of tensors, without values.  Raises ValueError as `read` does."""
        if not self.ops:
            return self._counted(tuple(tensors), self.ours)
        structs = [jax.ShapeDtypeStruct(shape, np.float32) for shape in tensors]
        return tuple(leaf.shape for leaf in jax.eval_shape(lambda *arrays: self.read(arrays), *structs))

    def _counted(self, made: tuple[Made, ...], names: tuple[str, ...]) -> tuple[Made, ...]:
        if len(made) != len(names):
            raise ValueError(
                f"the rule gives {len(made)} arrays for {len(names)} names, of which the first is {names[0]}"
            )
        return made


@dataclasses.dataclass(frozen=True)
class Names:
    """Naming conventions of a family's tensors, apart from the rules.

    prefix: prefix of the body's names if the model has a head; names are read with and without it.
    heads: prefixes of names that never carry `prefix`.
    pooler: prefixes of names that carry it and belong to a head.
    body: prefixes of the body's names, after `prefix`; None: all names but those of heads and pooler.
    renamed: parts of names in old files -> their names today.
    ignored: prefixes of tensors that are no parameters.
    repeats: names of tensors that files often hold a second time -> the name of the first.
    """

    prefix: str = ""
    heads: tuple[str, ...] = ()
    pooler: tuple[str, ...] = ()
    body: tuple[str, ...] | None = None
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    repeats: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def bare(self, name: str) -> str:
        """A tensor's name without the prefix, by the names of today."""
        name = name.removeprefix(self.prefix)
        for old, new in self.renamed.items():
            name = name.replace(old, new)
        return name

    def of_body(self, bare: str, name: str) -> bool:
        """True for a tensor of the body, and of no head, by its name without the prefix and its name in the file."""
        if self.body is None:
            return not bare.startswith((*self.heads, *self.pooler))
        return bare.startswith(self.body) or (
            bare != name and name.startswith(self.prefix) and not bare.startswith(self.pooler)
        )


Read = Callable[[str], "np.ndarray | None"]


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of published models.

    model_type: its name in `config.json`.
    build(config): the structure that a config describes.  Raises ValueError, naming the first key without a part.
    describe(model): the config of a structure; build(describe(model)) == model, but for scan and remat.  Raises
        ValueError, naming the first part without a key.
    rules(model, config): one table for reading and writing.
    names: naming conventions of the tensors.
    foreign(config, model): prefixes of tensors that serve another task than the model's, though names and shapes may
        be the same.
    settle(model, read): the described model, adapted to the tensors in the file, which read(name) gives.
    """

    model_type: str
    build: Callable[[Mapping[str, object]], Transformer]
    describe: Callable[[Transformer], dict[str, object]]
    rules: Callable[[Transformer, Mapping[str, object]], Sequence[Rule]]
    names: Names = Names()
    foreign: Callable[[Mapping[str, object], Transformer], tuple[str, ...]] = lambda config, model: ()
    settle: Callable[[Transformer, Read], Transformer] = lambda model, read: model


def families() -> tuple[Family, ...]:
    """The families that the files beside this one define, in the order of the files' names.

    Raises ValueError for two of one name.
    """
    package = importlib.import_module(__package__ or "models.families")
    files = [
        importlib.import_module(f"{package.__name__}.{entry.name}") for entry in pkgutil.iter_modules(package.__path__)
    ]
    candidates = [(file, value) for file in files for value in vars(file).values() if isinstance(value, Family)]
    known: dict[str, tuple[ModuleType, Family]] = {}
    for file, family in candidates:
        other, same = known.setdefault(family.model_type, (file, family))
        if same is not family:
            raise ValueError(
                f"Two families are called {family.model_type!r}: in {other.__name__} and in {file.__name__}; rename"
                " one."
            )
    return tuple(family for _, family in known.values())


def number_blocks(path: str, prefix: int) -> str:
    """A parameter's path as rules write it: its block is `layer_N`, N counting the `prefix` blocks of the stack too."""
    layer = Layer.of(path)
    return path if layer is None else layer.single(prefix).path
