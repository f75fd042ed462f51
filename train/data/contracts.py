"""What data gives, whatever it holds: the sockets that a new source plugs into."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from train.data.batches import Batches

PART = Literal["train", "test"]


class Opened(Protocol):
    """Data that is ready: `classes` of the target, `names` of what an answer chooses from, `vocab` ids of tokens; batches, questions.

    A batch's `weights` say which places hold examples, and its `index` which of the split's they are.  What may be left out are
    the protocols `Shows`, `Asks` and `Restores`, `unseen`, the names of classes without an example to train on, and
    `notes` (`train.data.notes.Notes`): what the reader left out, cut, filled in or decided, which is shown wherever a run is.
    """

    classes: tuple[str, ...]
    vocab: int

    @property
    def names(self) -> tuple[str, ...]: ...

    def batches(self, part: PART, batch_size: int, multiple: int, seed: int | None) -> Batches: ...

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Batches: ...


@runtime_checkable
class Shows(Protocol):
    """Data of which an example can be shown, as a piece of a page."""

    def shown(self, part: PART, index: int) -> str: ...


@runtime_checkable
class Asks(Protocol):
    """Data that makes questions of what a user gives, such as the pictures of a folder."""

    def asked(self, given: Sequence[str]) -> list[str]: ...


@runtime_checkable
class Restores(Protocol):
    """Data that puts outputs of the model for an example back into its units."""

    def restored(self, output: Any, example: Any) -> Any: ...


class Data(Protocol):
    """Where batches come from: `open()` reads, checks and tokenises; `classes` fixes those that a trained model knows."""

    def open(self, classes: tuple[str, ...] = (), only: PART | None = None) -> Opened: ...

    def reader(self, classes: tuple[str, ...] = ()) -> Opened: ...
