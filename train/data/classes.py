"""Names of classes: distinct, renamed for answers, and looked up for the examples of a data set."""

from collections.abc import Callable, Sequence
from typing import SupportsInt

from models.words import join
from train.errors import InputError


def read_label(value: object, classes: Sequence[str], where: str) -> int:
    """Reads the class index of an example of a data set.  Raises InputError if it has none, as in some test splits."""
    index = int(value) if isinstance(value, str | SupportsInt) else -1
    if not 0 <= index < len(classes):
        raise InputError(
            f"{where}, has no class ({index}); set data.splits to parts that have, such as ('train', 'validation')."
        )
    return index


def require_unique(setting: str, names: tuple[str, ...]) -> None:
    """Raises ValueError for repeated names."""
    if twice := [name for index, name in enumerate(names) if name in names[:index]]:
        raise ValueError(f"{setting} names {join(map(repr, twice))} twice; name each once.")


def rename_classes(classes: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """Renames classes to `names`, if any, in their order.  Raises InputError unless each has a distinct name."""
    if not names or not classes:
        return classes
    if len(names) != len(classes) or len(set(names)) < len(names):
        raise InputError(
            f"data.names has {len(names)} names ({join(names)}) for {len(classes)} classes ({join(classes)}); give"
            " one for each, no two alike."
        )
    return names


def admit_classes(
    known: tuple[str, ...], found: Sequence[str], divided: bool, say: Callable[[str], str]
) -> tuple[str, ...]:
    """Adds to the known classes, at the end, those `found` only in a part held out of the same source (`divided`).

    Such a class has no example to train on, which the run's cautions say.  Raises InputError for a new class of a
    source of its own; `say` tells where it is.
    """
    new = tuple(dict.fromkeys(name for name in found if name not in known))
    if known and new and not divided:
        raise InputError(f"{say(new[0])}, which training never saw; known are {join(known)}.")
    return (*known, *new)
