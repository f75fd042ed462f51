"""The grammar of parameter paths: names of leaves, and which layer of which stack a leaf belongs to."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax

SCANNED, TIED = "blocks", "tied"  # the body of a stack whose repeats have parameters of their own, and of one whose repeats share them
# A stack calls its blocks so: those of the prefix, those of a loop, and those of a pattern that is scanned or tied.
LAYER = re.compile(rf"(?:^|(?<=/))(?:first_(?P<prefix>\d+)|layer_(?P<loop>\d+)|(?P<over>{SCANNED}|{TIED})/block_(?P<block>\d+))(?=/|$)")


def path_name(path: tuple[Any, ...]) -> str:
    """A tree path as `stack/layer_0/mixer/query/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def map_paths(function: Callable[..., Any], tree: Any, *more: Any) -> Any:
    """The tree with function(path name, leaf, ...) for each leaf."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(path_name(path), *leaves), tree, *more)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A block of a stack: the stack's path, the path within the block, how the block repeats, and its number of its kind.

    kind "prefix" and "loop" are single blocks; "scan" has parameters with a leading axis of repeats; "tied" is one block for all repeats.
    """

    stack: str
    kind: str
    index: int
    within: str

    @classmethod
    def of(cls, path: str) -> "Layer | None":
        """The outermost block that a path leads into; None for what is in no stack."""
        if (found := LAYER.search(path)) is None:
            return None
        stack, within = path[: found.start()].rstrip("/"), path[found.end() :].lstrip("/")
        if found["prefix"] or found["loop"]:
            return cls(stack, "prefix" if found["prefix"] else "loop", int(found["prefix"] or found["loop"]), within)
        return cls(stack, "scan" if found["over"] == SCANNED else "tied", int(found["block"]), within)

    @property
    def body(self) -> str:
        """What the stack calls the body that repeats."""
        return SCANNED if self.kind == "scan" else TIED

    @property
    def repeats(self) -> bool:
        """Whether collections other than the parameters have a leading axis of repeats."""
        return self.kind in ("scan", "tied")


def stacked(path: str) -> int:
    """How many leading axes of a parameter count the repeats of scanned stacks, by its path."""
    count = 0
    while (layer := Layer.of(path)) is not None:
        count, path = count + (layer.kind == "scan"), layer.within
    return count
