"""Laws of intermediate values: each can be replaced, by itself without effect, by another's where it has one."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.context import Context, Memory
from models.contracts import Layer, Tree, kind_of
from models.inspect.intermediates import observe, substitute, trace
from models.inspect.watch import INPUT, take_value
from models.laws.carrier import stack_of
from models.laws.declared import says_causal
from models.laws.inputs import WIDTH, Component, arguments, name_tokens, normal, random_like
from models.laws.layer import MEMORY, Rows, example_lengths, one_example, several_examples
from models.laws.verdict import require, require_close

ROWS, ROW = 5, 1  # of the batch, and the one in which values are replaced
LENGTHS = (11, 24, 48, 192, 8)  # the first at which a layer runs: no numbers of heads, as axes are told by their sizes
WHOLE = ("", "0", "1")  # paths that hold all of a stack's state


class Watched(NamedTuple):
    """A module that has a component as a part, and how its intermediate values change its output.

    `run(args)` gives the output and all values by path, `patch(args, values)` the outputs, on a leading axis, with each
    value in turn replaced.  Values are outputs of modules.
    """

    args: tuple[Tree, ...]
    other: tuple[Tree, ...]
    paths: tuple[str, ...]
    run: Callable[[tuple[Tree, ...]], tuple[Tree, dict[str, Tree]]]
    patch: Callable[[tuple[Tree, ...], Mapping[str, Tree]], Tree]


def _inputs(seed: int, length: int) -> tuple[jax.Array, Context]:
    """Rows of tokens, of which that in the middle packs two examples, and their context."""
    rows = [several_examples(length) if row == ROW else one_example(length) for row in range(ROWS)]
    positions, segments, memory, starts = (
        jnp.asarray(np.stack([getattr(each, name) for each in rows])) for name in Rows._fields
    )
    x = normal(seed, ROWS, length, WIDTH)
    context = Context(
        positions=positions,
        segments=segments,
        starts=starts,
        memory=Memory(normal(3, ROWS, MEMORY, WIDTH), memory),
        tokens=name_tokens(x),
    )
    return x, context


@functools.lru_cache(maxsize=8)
def watch(component: Component) -> Watched:
    """The component in each of two blocks, if blocks have such a part, or alone."""
    module = stack_of(component)
    if module is None:
        module, args = component, arguments(component)
        other = args
        variables = {"params": random_like(jax.eval_shape(module.init, jax.random.key(0), *args).get("params", {}))}
    else:
        args, variables = _fit(module)
        other = _inputs(2, args[0].shape[1])
    paths = tuple(path for path in trace(module, variables, *args) if path and not path.endswith(INPUT))

    def patch(args: tuple[Tree, ...], values: Mapping[str, Tree]) -> Tree:
        def once(index: jax.Array) -> Tree:
            def change(number: int, path: str) -> Callable[[Tree], Tree]:
                return lambda old: jax.tree.map(
                    lambda new, leaf: jnp.where(index == number, new.astype(leaf.dtype), leaf), values[path], old
                )

            changes = {path: change(number, path) for number, path in enumerate(paths)}
            return take_value(substitute(module, variables, args, changes))

        return jax.lax.map(once, jnp.arange(len(paths)))

    def run(args: tuple[Tree, ...]) -> tuple[Tree, dict[str, Tree]]:
        values = observe(module, variables, args)
        return values[""], {path: values[path] for path in paths}

    def fetch(program: Callable[..., Tree], *args: Tree) -> Tree:
        return jax.tree.map(np.array, jax.jit(program)(*args))  # numpy's, of which slices compile nothing

    return Watched(args, other, paths, functools.partial(fetch, run), functools.partial(fetch, patch))


def _fit(stack: Component) -> tuple[tuple[jax.Array, Context], Tree]:
    """Inputs of the first length at which a stack runs, and its parameters."""
    for length in LENGTHS:
        args = _inputs(1, length)
        try:
            shapes = jax.eval_shape(stack.init, jax.random.key(0), *args)
        except Exception:  # whatever the component's own code raises
            if length == LENGTHS[-1]:
                raise
        else:
            return args, {"params": random_like(shapes.get("params", {}))}
    raise AssertionError


def law_replacing_a_value_by_itself_changes_nothing(component: Component) -> None:
    """Each intermediate value, captured and put in its own place, gives the output of the model."""
    watched = watch(component)
    output, values = watched.run(watched.args)
    for leaf, plain in zip(jax.tree.leaves(watched.patch(watched.args, values)), jax.tree.leaves(output), strict=True):
        for index, path in enumerate(watched.paths):
            require_close(leaf[index], plain, 1e-4, f"the output with {path} replaced by itself", 1e-4)


def law_replacing_a_value_moves_what_depends_on_it(component: Component) -> None:
    """Another example's value in one row moves its output, and no other row, earlier example or, if causal, token."""
    watched = watch(component)
    x, ctx = watched.args
    t = x.shape[1]
    part = component if kind_of(component) is Layer else None
    first = example_lengths(t)[0] + (t // 4 if part is not None and says_causal(part) else 0)
    output, values = watched.run(watched.args)
    _, others = watched.run(watched.other)
    mixed = {
        path: jax.tree.map(functools.partial(_mix, t, first, _is_stream(path)), values[path], others[path])
        for path in watched.paths
    }
    outputs = watched.patch(watched.args, mixed)
    for index, path in enumerate(watched.paths):
        words, moved = f"the output with {path} of row {ROW} replaced", outputs[index]
        for row in set(range(ROWS)) - {ROW}:
            require_close(moved[row], output[row], 1e-4, f"{words}: row {row}", 1e-4)
        if _is_stream(path) and all(leaf.shape[:2] == (ROWS, t) for leaf in jax.tree.leaves(values[path])):
            words = f"{words} from token {first} on"
            require_close(moved[ROW, :first], output[ROW, :first], 1e-4, f"{words}: an earlier token", 1e-4)
        if path in WHOLE:
            change = np.abs(moved[ROW, first:] - output[ROW, first:]).max()
            require(change > 1e-3, f"{words}: it stays as it was")


def _is_stream(path: str) -> bool:
    """Tells if a value is a block's, a branch's or a residual's; within a layer tokens may be in another order."""
    return path.count(".") < 2


def _mix(t: int, first: int, stream: bool, own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The value with that of the other example in the row, of a stream from a token on."""
    mixed = own.copy()
    if stream and own.shape[:2] == (ROWS, t):
        mixed[ROW, first:] = other[ROW, first:]
    elif own.shape[:1] == (ROWS,):
        mixed[ROW] = other[ROW]
    return mixed
