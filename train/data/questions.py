"""Texts to predict from, each with its location in a file for error messages."""

from collections.abc import Sequence
from pathlib import Path

from train.data.notes import Notes
from train.data.sources import find_format, read, require_text


class Question(str):
    """A text to predict from.

    `where` is its location, such as `reviews.csv, example 3`; `cell` is the value in the file: the text, or a number,
    bytes, None.
    """

    where: str
    cell: object

    def __new__(cls, text: str, where: str, cell: object) -> "Question":
        """The text, with its location and its cell."""
        question = super().__new__(cls, text)
        question.where = where
        question.cell = cell
        return question

    @classmethod
    def of(cls, cell: object, where: str) -> "Question":
        """The text of a cell, empty if the cell holds no text."""
        try:
            text = cell.decode("utf-8") if isinstance(cell, bytes) else cell
        except UnicodeDecodeError:
            text = ""
        return cls(text if isinstance(text, str) else "", where, cell)

    @classmethod
    def at(cls, texts: Sequence[str], index: int) -> "Question":
        """Text `index` of several as a question."""
        text = texts[index]
        return text if isinstance(text, Question) else cls(text, where(texts, index), text)

    def strip(self, chars: str | None = None, /) -> "Question":
        """The text without surrounding whitespace or `chars`, at the same location."""
        return Question(super().strip(chars), self.where, self.cell)


def where(texts: Sequence[str], index: int) -> str:
    """The location of a text in a message: that of a question, `text 3` for any other text."""
    text = texts[index]
    return text.where if isinstance(text, Question) else f"text {index + 1}"


def read_texts(inputs: Sequence[str], notes: Notes, **column: str) -> list[str]:
    """Replaces files and folders of a known format among texts by the texts of a column of their rows.

    A .txt file is replaced by its lines; a `Question` is a text, even if a file has its name.  The column is keyed by
    the setting that chooses it; `notes` takes the reader's notes.  Texts of files are `Question`s, which have their
    file and row; a row without text becomes an empty text.  Raises InputError for a file that cannot be read or lacks
    the column.
    """
    texts: list[str] = []
    for name in inputs:
        if isinstance(name, Question) or not _exists(name) or find_format(name) is None:
            texts.append(name)
            continue
        split = read(name)
        columns = {"text": "text"} if Path(name).suffix.lower() == ".txt" else column
        split.require(**columns)
        notes.take(split.notes)
        for key in columns.values():
            rows = range(len(split.examples))
            texts += [Question.of(split.examples[index].get(key), split.where(index)) for index in rows]
    return texts


def _exists(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # a text that cannot be a file name
        return False


def read_question(asked: Sequence[str], index: int) -> str:
    """Reads a text to predict from.  Raises InputError, with its location, if it is empty or not UTF-8."""
    text = asked[index]
    return require_text(text.cell if isinstance(text, Question) else text, where(asked, index))
