"""The grammar of parameter paths: names of leaves, the layer of a stack that a leaf belongs to, and patterns."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Literal

import jax
from jax.tree_util import KeyPath

from models.contracts import Tree

# bodies of stacks: with parameters for each repeat, and with parameters that all repeats share
SCANNED, TIED = "blocks", "tied"
Kind = Literal["prefix", "loop", "scan", "tied"]
PATTERN = "block_{}"  # a block of the body
# Names of blocks within a stack: of the prefix, of a loop, and of a pattern that is scanned or tied.
CALLED: dict[Kind, str] = {
    "prefix": "first_{}",
    "loop": "layer_{}",
    "scan": f"{SCANNED}/{PATTERN}",
    "tied": f"{TIED}/{PATTERN}",
}
NUMBER = r"\d+"
LAYER = re.compile(
    "(?:^|(?<=/))(?:" + "|".join(f"(?P<{kind}>{name.format(NUMBER)})" for kind, name in CALLED.items()) + ")(?=/|$)"
)


def path_name(path: KeyPath) -> str:
    """A tree path as `stack/layer_0/mixer/query/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def map_paths(function: Callable[..., object], tree: Tree, *more: Tree) -> Tree:
    """The tree with function(path name, leaf, ...) for each leaf."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(path_name(path), *leaves), tree, *more)


def select(patterns: Sequence[str]) -> Callable[[str], str | None]:
    """A function that gives the first of the regular expressions that is found anywhere in a path, or None.

    Raises `re.error` for a pattern that is no regular expression.
    """
    compiled = [(pattern, re.compile(pattern)) for pattern in patterns]
    return lambda path: next((pattern for pattern, expression in compiled if expression.search(path)), None)


def block_name(kind: Kind, index: int) -> str:
    """The path, within its stack, of a block: `first_0`, `layer_3`, `blocks/block_1` or `tied/block_1`."""
    return CALLED[kind].format(index)


def in_loop(name: str) -> bool:
    """True for a name, within a stack, of a block of a loop."""
    return (layer := Layer.of(name)) is not None and layer.kind == "loop"


@dataclasses.dataclass(frozen=True)
class Layer:
    """A block of a stack: the stack's path, how the block repeats, its number of that kind, and the path within it.

    kind "prefix" and "loop" are single blocks; "scan" has parameters with a leading axis of repeats; "tied" is one
    block for all repeats.
    """

    stack: str
    kind: Kind
    index: int
    within: str

    @classmethod
    def of(cls, path: str) -> "Layer | None":
        """The outermost block that a path leads into; None if it leads into no stack."""
        if (match := LAYER.search(path)) is None:
            return None
        kind: Kind = next(kind for kind in CALLED if match[kind] is not None)
        stack, within = path[: match.start()].rstrip("/"), path[match.end() :].lstrip("/")
        return cls(stack, kind, int(match[0].rsplit("_", 1)[1]), within)

    @property
    def path(self) -> str:
        """The path that leads here: `Layer.of(path).path == path`."""
        return "/".join(filter(None, (self.stack, block_name(self.kind, self.index), self.within)))

    @property
    def body(self) -> str:
        """The stack's name for the body that repeats."""
        return SCANNED if self.kind == "scan" else TIED

    @property
    def repeats(self) -> bool:
        """Tells if collections other than the parameters have a leading axis of repeats."""
        return self.kind in ("scan", "tied")

    def single(self, first: int = 0) -> "Layer":
        """The same block as one of a loop that counts all blocks of the stack, of which `first` are the prefix.

        Of blocks that repeat it is that of the first repeat.
        """
        return dataclasses.replace(self, kind="loop", index=self.index + (0 if self.kind == "prefix" else first))


def count_stacked(path: str) -> int:
    """Counts the leading axes of a parameter that are repeats of scanned stacks, by its path."""
    count = 0
    while (layer := Layer.of(path)) is not None:
        count, path = count + (layer.kind == "scan"), layer.within
    return count
