"""Lists in messages: short enough for a line."""

import dataclasses
import re
from collections.abc import Iterable, Sequence

ROOM = 160  # characters of a list in a message


def join(items: Iterable[object], room: int = ROOM) -> str:
    """Joins items by commas, as many as fit (one at least), then says how many more there are.

    >>> join(range(100), room=12)
    '0, 1, 2, 3 and 96 more'
    """
    words = [_cut(str(item), room) for item in items]
    kept, used = 0, -2
    while kept < len(words) and (not kept or used + 2 + len(words[kept]) <= room):
        used, kept = used + 2 + len(words[kept]), kept + 1
    more = len(words) - kept
    return ", ".join(words[:kept]) + (f" and {more} more" if more else "")


def _cut(word: str, room: int) -> str:
    return word if len(word) <= room else f"{word[: room - 3]}..."


def shorten(value: object, room: int = 60) -> str:
    """A value on one line: a component by its class, anything else by its repr, cut."""
    return (
        f"{type(value).__name__}(...)" if dataclasses.is_dataclass(value) else _cut(" ".join(repr(value).split()), room)
    )


def merge_layers(names: Sequence[str]) -> list[str]:
    """Merges names that differ in their first number alone, that of their layer, in the order of the first.

    >>> merge_layers(["layer_0/up", "layer_0/down", "layer_1/up", "layer_2/up"])
    ['layer_0-2/up', 'layer_0/down']
    """
    groups: dict[str, list[int]] = {}
    for name in names:
        match = NUMBER.search(name)
        groups.setdefault(name if match is None else NUMBER.sub("{}", name, count=1), []).extend(
            [int(match[0])] if match else []
        )
    return [name.replace("{}", _spans(layers), 1) if layers else name for name, layers in groups.items()]


NUMBER = re.compile(r"(?<=[_./])\d+(?=[./]|$)")  # a number that ends a word of a path: a layer's, in any family's names


def _spans(numbers: list[int]) -> str:
    """Whole numbers as spans: 0-3+6."""
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][-1] + 1:
            spans[-1] = [spans[-1][0], number]
        else:
            spans.append([number])
    return "+".join("-".join(map(str, span)) for span in spans)
