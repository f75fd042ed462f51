"""Questions of a request as arrays.  A text is never taken for a path, and a file is bytes that the server writes."""

import dataclasses
import io
import math
import re
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from train.contracts import Arrays, Asks, Blank, Dataset, Steps, Tokenised, Unasked
from train.data.batches import of_examples
from train.data.notes import Noted, Notes, get_notes
from train.data.questions import Question
from train.data.sources import find_format, list_suffixes
from train.errors import InputError, convert_errors

SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")
UNPACKED = 64  # times its size that an archive may unpack to


@dataclasses.dataclass(frozen=True)
class Posted:
    """A posted file: its bytes, and the client's name for it, of which only the suffix is used."""

    name: str
    data: bytes


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question as it is shown, with its arrays as a batch of one row, or the reason why it has none."""

    text: str
    arrays: Arrays | None = None
    reason: str = ""


class Reader:
    """Reads the inputs of requests by an opened data set, one request at a time; a request makes `most` questions.

    Files are written to a folder of their own under a name that the server chooses, and removed once they are read.
    """

    def __init__(self, data: Dataset, most: int) -> None:
        self.data, self.most = data, most
        self.tokenised, self.lists = isinstance(data, Tokenised), data if isinstance(data, Asks) else None
        self.noted = data if isinstance(data, Noted) else None
        self.reading = threading.Lock()

    @property
    def accepts(self) -> str:
        """The kind of input: "text" (a table of texts too), "file", or "nothing"."""
        if isinstance(self.data, Unasked):
            return "nothing"
        return "text" if self.tokenised else "file"

    def read(
        self, inputs: Sequence[str | Posted], wanted: Callable[[], bool] = lambda: True
    ) -> tuple[list[Asked], list[str]]:
        """Reads inputs, as long as they are wanted: their questions in order, and the notes of the reader.

        Raises InputError if there are none or too many.
        """
        with self.reading:
            return self._read(inputs, wanted)

    def read_at_once(self, inputs: Sequence[str | Posted]) -> tuple[list[Asked], list[str]] | None:
        """Reads inputs as `read` does, unless others are being read: then None."""
        if not self.reading.acquire(blocking=False):
            return None
        try:
            return self._read(inputs, lambda: True)
        finally:
            self.reading.release()

    def _read(self, inputs: Sequence[str | Posted], wanted: Callable[[], bool]) -> tuple[list[Asked], list[str]]:
        if isinstance(self.data, Unasked):
            raise InputError(f"This run answers no questions: {self.data.unasked}.")
        asked: list[Asked] = []
        notes: list[str] = []
        for number, given in enumerate(inputs, 1):
            with make_folder(given) as folder:
                name, shown = self._place(given, number, Path(folder))
                for question in self._read_questions(name, self.most - len(asked)):
                    if not wanted():
                        return [], []
                    texts = (text.replace(str(name), shown) for text in (question.text, question.reason))
                    asked.append(Asked(next(texts), question.arrays, next(texts)))
                taken = self.noted.notes if self.noted is not None else ()
                notes += [str(note).replace(str(name), shown) for note in taken]
                if isinstance(taken, Notes):
                    taken.clear()  # of this request alone
        if not asked:
            raise InputError("There is nothing to predict from; give inputs.")
        return asked, list(dict.fromkeys(notes))

    def place(self, given: str | Posted, folder: Path) -> str:
        """The input for a reader of texts and paths: a `Question`, or the path of a file with the posted bytes."""
        return self._place(given, 1, folder)[0]

    def _place(self, given: str | Posted, number: int, folder: Path) -> tuple[str, str]:
        if isinstance(given, str):
            if not self.tokenised:
                raise InputError(f"Input {number} is a text, and this run reads files: post the file's bytes.")
            require_characters(given, f"Input {number}")
            return Question(given, f"text {number}", given), given
        shown = re.sub(r"[^\w. -]", "_", Path(given.name.replace("\\", "/")).name)[-80:] or f"file {number}"
        suffix = Path(shown).suffix.lower()
        path = folder / f"input{suffix if SUFFIX.fullmatch(suffix) else ''}"
        if self.tokenised and find_format(path.name) is None:
            raise InputError(f"{shown} is none of {', '.join(list_suffixes())}; name the file by what it holds.")
        require_small(given.data, shown)
        path.write_bytes(given.data)
        return str(path), shown

    def _read_questions(self, given: str, room: int) -> Iterator[Asked]:
        data = self.data
        try:
            with convert_errors():
                listed = [given] if self.lists is None else self.lists.list_questions([given])
                if len(listed) > room:
                    raise InputError(f"The inputs make more than {self.most} questions; ask in several requests.")
        except InputError as error:
            if room <= 0 or "more than" in str(error):
                raise
            yield Asked(given, None, str(error))
            return
        try:
            steps = data.questions(listed, 1, 1)
        except InputError:
            steps = None  # one of them cannot be read
        for index, text in enumerate(listed):
            yield self._read_question(steps, listed, index, text)

    def _read_question(self, steps: Steps | None, listed: Sequence[str], index: int, text: str) -> Asked:
        try:
            with convert_errors():
                batch = self.data.questions([listed[index]], 1, 1)[0] if steps is None else steps[index]
        except InputError as error:
            return Asked(text, None, str(error))
        return Asked(text, batch)


def make_folder(given: str | Posted) -> AbstractContextManager[str]:
    """Makes a folder for a posted file, which is removed at the end; none for a text."""
    return nullcontext("") if isinstance(given, str) else tempfile.TemporaryDirectory(prefix="morphax-")


def require_characters(text: str, what: str) -> None:
    """Raises InputError for a text with half a surrogate pair, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{what} has half a surrogate pair, which is no character; remove it.") from None


def require_small(data: bytes, name: str) -> None:
    """Raises InputError for an archive, such as an .npz, that unpacks to many times its size."""
    if data[:2] != b"PK":
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return  # refused by its reader
    if size > UNPACKED * len(data):
        raise InputError(f"{name} unpacks to more than {UNPACKED} times its size; post it without compression.")


def list_shapes(data: Dataset, examples: Sequence[str]) -> list[Arrays]:
    """Lists a batch of one row for every shape that questions have: those of texts of all lengths, or of a blank one.

    `examples` are inputs whose shapes are added.  Raises InputError if there are none.
    """
    shapes: dict[object, Arrays] = {}

    def add(batch: Arrays) -> bool:
        known = len(shapes)
        shapes.setdefault(get_shape(batch), batch)
        return len(shapes) > known

    if isinstance(data, Blank):
        add(of_examples(1, lambda index, chance: data.make_blank(), 1, 1)[0])
    elif isinstance(data, Tokenised):
        count, last = 1, 1
        while count < 16 * last + 512:  # words; the lengths that texts are padded to are not further apart
            text = " ".join(["a"] * count)
            try:
                last = count if add(data.questions([Question(text, "a text", text)], 1, 1)[0]) else last
            except InputError:
                break
            count = math.ceil(count * 1.12)
    with convert_errors("--example cannot be read: "):
        listed = data.list_questions(examples) if isinstance(data, Asks) else list(examples)
        for text in listed:
            add(data.questions([text], 1, 1)[0])
    if isinstance(taken := get_notes(data), Notes):
        taken.clear()
    if not shapes:
        raise InputError(
            "The shapes of this run's questions are known once it reads one; give a file that it can answer by"
            " --example FILE."
        )
    return list(shapes.values())


def get_shape(batch: Arrays) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    """The shapes of a batch's rows, and their types, by name."""
    return tuple((name, value.shape[1:], value.dtype.str) for name, value in sorted(batch.items()))
