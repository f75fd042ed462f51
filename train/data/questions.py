"""Texts to predict from, each with its location in a file for error messages."""

from collections.abc import Sequence


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
