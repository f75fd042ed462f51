"""What data gives, whatever it holds: the sockets that a new source plugs into."""

from collections.abc import Sequence
from typing import Literal, Protocol

from train.data.batches import Batches

PART = Literal["train", "test"]


class Opened(Protocol):
    """Data that is ready: `classes` of the target, `names` of what an answer chooses from, `vocab` ids of tokens; batches, questions.

    A batch's `weights` say which places hold examples, and its `index` which of the split's they are.  What may be left out:
    `unseen`, the names of classes without an example to train on;
    `shown(part, index)` gives an example as a piece of a page; `asked(given)` makes the questions of what a user gives, such as the
    pictures of a folder; `restored(output, example)` puts what the model gives for an example back into the units of the data.  So may
    `notes` (`train.data.notes.Notes`): what the reader left out, cut, filled in or decided, which is shown wherever a run is.
    """

    classes: tuple[str, ...]
    vocab: int

    @property
    def names(self) -> tuple[str, ...]: ...

    def batches(self, part: PART, batch_size: int, multiple: int, seed: int | None) -> Batches: ...

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Batches: ...


class Data(Protocol):
    """Where batches come from: `open()` reads, checks and tokenises; `classes` fixes those that a trained model knows."""

    def open(self, classes: tuple[str, ...] = (), only: PART | None = None) -> Opened: ...

    def reader(self, classes: tuple[str, ...] = ()) -> Opened: ...
