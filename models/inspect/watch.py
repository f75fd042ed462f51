"""The walk over the calls of a running model: every input and output of its own modules, by path and repeat."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.module import InterceptorContext

from models.context import Context
from models.contracts import Tree
from models.depth.stack import Pattern, Stack
from models.paths import Layer

KEPT = "intermediates"  # the collection that values are sown to
INPUT = ":input"  # ends the path of a first argument
Change = Callable[[Tree], Tree]  # a value as computed -> the value that goes on
Path = tuple[str, ...]


@dataclasses.dataclass
class Site:
    """The output or, with the suffix ":input", the first argument of a module that runs.

    `paths` has an axis for each scanned or tied stack around the module, of its repeats; `counts` are the present ones.
    """

    module: nn.Module
    suffix: str
    paths: np.ndarray
    counts: Callable[[], Sequence[jax.Array | int]]

    def at(self, row: int, value: Tree) -> Tree:
        """The value in one repeat, of values whose leading axes are the repeats."""
        index = np.unravel_index(row, self.paths.shape) if self.paths.shape else ()
        return jax.tree.map(lambda leaf: leaf[tuple(map(int, index))] if index else leaf, value)

    def choose(self, changes: Sequence[Change | None], value: Tree) -> Tree:
        """The value as it goes on: changed by that of the present repeat, if there is one."""
        first = changes[0]
        if all(change is first for change in changes):
            return value if first is None else first(value)
        given = [change for change in changes if change is not None]
        branch = np.zeros(len(changes), int)
        branch[[change is not None for change in changes]] = 1 + np.arange(len(given))
        row = jnp.ravel_multi_index(tuple(map(jnp.asarray, self.counts())), self.paths.shape, mode="clip")
        return jax.lax.switch(jnp.asarray(branch)[row], [_keep, *given], value)


def take_value(output: Tree) -> Tree:
    """The value of an output: without the context beside it, or what later layers find in their context."""
    beside = isinstance(output, tuple) and len(output) == 2 and isinstance(output[1], Context | dict)
    return output[0] if beside else output


def _keep(value: Tree) -> Tree:
    return jax.tree.map(lambda leaf: leaf.astype(leaf.dtype), value)  # no weak types, as after a change


class Watch:
    """An interceptor of linen's methods: gives `visit(site, value)` the place of each input and output.

    Inputs and outputs are those of calls of a model's own modules, without those of a model that a module applies by
    itself, and of a class's call those of `super().__call__` left out.
    """

    def __init__(self, visit: Callable[[Site, Tree], Tree]) -> None:
        self.visit = visit
        self.running: list[Path] = []  # the calls in progress
        self.stacks: dict[Path, Stack] = {}
        self.layers: dict[Path, jax.Array | int] = {}  # by stack, the first block of the present repeat
        self.apart = False  # within a model that a module applies by itself

    def __call__(
        self, run: Callable[..., Tree], args: tuple[Tree, ...], keywords: Mapping[str, Tree], at: InterceptorContext
    ) -> Tree:
        """Runs a method of a module, with the visits of its input and its output if it is a call."""
        module, path = at.module, at.module.path
        inherited = bool(self.running) and self.running[-1] == path and not isinstance(module, Pattern)
        if at.method_name != "__call__" or inherited or self.apart:
            return run(*args, **keywords)
        self.apart = bool(self.running) and not path
        self.running.append(path)
        try:
            if isinstance(module, Pattern) and not self.apart:
                self.layers[path[:-1]] = args[2]
            if isinstance(module, Pattern) or self.apart:
                return run(*args, **keywords)
            if isinstance(module, Stack):
                self.stacks[path] = module
            paths, counts = self._locate(path)
            if args and path:
                args = (self.visit(Site(module, INPUT, paths, counts), args[0]), *args[1:])
            output, site = run(*args, **keywords), Site(module, "", paths, counts)
            value = take_value(output)
            return self.visit(site, value) if value is output else (self.visit(site, value), output[1])
        finally:
            self.running.pop()
            self.apart = False

    def _locate(self, path: Path) -> tuple[np.ndarray, Callable[[], list[jax.Array | int]]]:
        """The paths of a module in every repeat of the stacks around it, and what counts the present repeats."""
        names: list[list[str]] = []  # each part of the path in each of its repeats
        around: list[tuple[Path, Stack]] = []
        index = 0
        while index < len(path):
            stack, rest = self.stacks.get(path[:index]), path[index:]
            layer = None if stack is None else Layer.of("/".join(rest))
            if stack is None or layer is None or layer.stack:
                names.append([path[index]])
                index += 1
                continue
            first = layer.single(len(stack.prefix)).index
            rows = range(stack.repeats) if layer.repeats else range(1)
            names.append([str(first + row * len(stack.pattern)) for row in rows])
            if layer.repeats:
                around.append((path[:index], stack))
            index += len(rest) - len(layer.within.split("/")) if layer.within else len(rest)

        def counts() -> list[jax.Array | int]:
            return [(self.layers[each] - len(stack.prefix)) // len(stack.pattern) for each, stack in around]

        paths = np.array([".".join(each) for each in itertools.product(*names)])
        return paths.reshape([stack.repeats for _, stack in around]), counts
