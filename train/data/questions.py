"""Texts that a trained run is asked, each with the place that a message names."""

from collections.abc import Sequence
from typing import Any


class Question(str):
    """A text to predict from.

    `where` is its place, such as `reviews.csv, example 3`; `cell` is what its file has there: the text, or a number,
    bytes, None.
    """

    where: str
    cell: Any

    def __new__(cls, text: str, where: str, cell: Any) -> "Question":
        """The text, at its place."""
        question = super().__new__(cls, text)
        question.where, question.cell = where, cell
        return question

    @classmethod
    def of(cls, cell: Any, where: str) -> "Question":
        """The text of a cell; the empty one if it holds none."""
        try:
            text = cell.decode("utf-8") if isinstance(cell, bytes) else cell
        except UnicodeDecodeError:
            text = ""
        return cls(text if isinstance(text, str) else "", where, cell)

    @classmethod
    def at(cls, texts: Sequence[str], index: int) -> "Question":
        """One of several texts, a question already or not."""
        text = texts[index]
        return text if isinstance(text, Question) else cls(text, where(texts, index), text)

    def strip(self, chars: str | None = None, /) -> "Question":
        """The text without what surrounds it, at the same place."""
        return Question(super().strip(chars), self.where, self.cell)


def where(texts: Sequence[str], index: int) -> str:
    """The place of one of the texts, for a message: that of a question, or `text 3` of a text that has none."""
    text = texts[index]
    return text.where if isinstance(text, Question) else f"text {index + 1}"
