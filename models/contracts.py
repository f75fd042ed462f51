"""The contracts of models: inputs and outputs of each kind of component, which a new class implements.

A component belongs to a kind by its methods and the names of their arguments, never by a base class.  Shape letters: b
batch, t time, s source, d width, h heads, k head width, f hidden, n examples a row, v vocabulary, c classes.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax

from models.context import Context, Decoding

Activation = Callable[[jax.Array], jax.Array]
Branch = Callable[[jax.Array], jax.Array]
Batch = Mapping[str, jax.Array]
Tree = Any  # a pytree of arrays, of their shapes or of their shardings, which no type describes


class Layer(Protocol):
    """Mixes or transforms tokens: (b, t, d) -> (b, t, d).  Attention, recurrence, convolution, feedforward, experts."""

    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array: ...


class Norm(Protocol):
    """Normalises the last axis: (..., d) -> (..., d)."""

    def __call__(self, x: jax.Array) -> jax.Array: ...


class Position(Protocol):
    """Encodes positions in vectors: x (..., t, d) and positions (..., t) -> (..., t, d)."""

    def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array: ...


class Relative(Protocol):
    """Adds a bias to attention scores that depends on the positions of the two tokens.

    scores (b, h, t, s) in float32, hidden pairs at HIDDEN; query (b, h, t, k), scaled; positions (b, 1, t) of the
    queries and sources (b, 1, s) of the keys (b may be 1) -> scores (b, h, t, s).
    """

    def __call__(self, scores: jax.Array, query: jax.Array, positions: jax.Array, sources: jax.Array) -> jax.Array: ...


class Weigh(Protocol):
    """Turns attention scores (b, h, t, s) in float32 and a mask into weights (b, h, t, s).

    The mask is (b or 1, h or 1, t, s), or None.  Weights outside the mask `visible` are zero, also in a row that sees
    nothing.
    """

    def __call__(self, scores: jax.Array, visible: jax.Array | None) -> jax.Array: ...


class Router(Protocol):
    """Chooses `active` experts for each token.

    (b, t, d) and segments (b, t) or None -> weights in float32 (b, t, k) and indices of experts (b, t, k).
    """

    def __call__(
        self, tokens: jax.Array, segments: jax.Array | None, experts: int, active: int
    ) -> tuple[jax.Array, jax.Array]: ...


class Residual(Protocol):
    """Joins a branch to the stream: (state, branch, ctx) -> state.

    The state is (b, t, d) unless the class also has `expand(x, ctx) -> state` and `reduce(state, ctx) -> x`; then it is
    any pytree of arrays whose shapes no layer changes.  `branch` is a function (b, t, d) -> (b, t, d); the context
    holds its index and that of its block, for `expand` the most branches of a block.
    """

    def __call__(self, state: Tree, branch: Branch, ctx: Context) -> Tree: ...


@runtime_checkable
class Shrinks(Protocol):
    """A residual that multiplies the initial values of its branch's matrices by `first_gain`, in the context's block.

    `models.parametrization.SHRUNK` names these matrices.
    """

    def first_gain(self, ctx: Context) -> float: ...


class Embed(Protocol):
    """Reads the keys of the batch that it needs: batch -> x (b, t, d) and the context with positions filled in.

    An embed of tokens also fills in their ids, `ctx.tokens`.
    """

    def __call__(self, batch: Batch, ctx: Context) -> tuple[jax.Array, Context]: ...


@runtime_checkable
class Tiles(Protocol):
    """An embed whose tokens, after its `registers`, are the cells of a grid, the last axis running fastest.

    `cells` counts them along each axis of an input of these `extents`: (rows, columns) of an image, or (frames, rows,
    columns) of a video.  Raises ValueError if cells do not tile it.
    """

    registers: int

    def cells(self, extents: tuple[int, ...]) -> tuple[int, ...]: ...


class Pool(Protocol):
    """One vector an example: hidden (b, t, d) -> (b, d), or (b, n, d) if the context says that examples share rows."""

    def __call__(self, hidden: jax.Array, ctx: Context) -> jax.Array: ...


class Head(Protocol):
    """The outputs of a model: hidden (b, t, d) -> outputs.  `table` (v, d) is the token embedding, for tied logits."""

    def __call__(self, hidden: jax.Array, ctx: Context, table: jax.Array | None) -> Tree: ...


class Model(Protocol):
    """A batch in, outputs out: `init(key, batch)` and `apply(variables, batch, train=)`.  `train` turns dropout on.

    With `decoding` the batch continues the rows that the collection "cache" holds, and fills it.
    """

    def __call__(self, batch: Batch, train: bool = False, decoding: Decoding | None = None) -> Tree: ...

    def init(self, rngs: jax.Array, *args: Tree, **kwargs: Any) -> Tree: ...

    def apply(self, variables: Tree, *args: Tree, rngs: dict[str, jax.Array] | None = None, **kwargs: Any) -> Tree: ...


KINDS: tuple[type, ...] = (Layer, Norm, Position, Relative, Weigh, Router, Residual, Embed, Pool, Head, Model)


def conforms(component: object, kind: type) -> bool:
    """Tells if a class or an instance has the methods of a kind, with the same names of arguments."""
    owner = component if isinstance(component, type) else type(component)
    methods = [
        name
        for name, value in vars(kind).items()
        if callable(value) and (name == "__call__" or not name.startswith("_"))
    ]
    return all(
        callable(getattr(owner, name, None))
        and (name in ("init", "apply") or _names(owner, name) == _names(kind, name))
        for name in methods
    )


@functools.cache
def _names(owner: type, method: str) -> list[str]:
    return [name for name in inspect.signature(getattr(owner, method)).parameters if name != "self"]


def kind_of(component: object) -> type | None:
    """The kind of models/ that a component class (or an instance) belongs to, or None."""
    return next((kind for kind in KINDS if conforms(component, kind)), None)
