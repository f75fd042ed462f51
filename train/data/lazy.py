"""Sequences whose items are made when they are asked for."""

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar, overload

Item = TypeVar("Item", covariant=True)


class Lazy(Sequence[Item], Generic[Item]):
    """A sequence of `length` items, of which item i is `make(i)`: what is kept is what `make` reads.

    `walk` makes all items in their order, if that is quicker than one by one.
    """

    def __init__(
        self, length: int, make: Callable[[int], Item], walk: Callable[[], Iterator[Item]] | None = None
    ) -> None:
        self.length = length
        self.make = make
        self.walk = walk

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Item]:
        return map(self.make, range(self.length)) if self.walk is None else self.walk()

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        if isinstance(index, slice):
            chosen = range(self.length)[index]
            return Lazy(len(chosen), lambda item: self.make(chosen[item]))
        return self.make(range(self.length)[index])
