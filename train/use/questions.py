"""Questions to a trained run, in batches; those that the data cannot read keep the reason."""

import re
from collections.abc import Iterator, Mapping, Sequence

from train.contracts import Arrays, Asks, Dataset, Steps
from train.data.questions import Question, where
from train.errors import InputError


class QuestionBatches:
    """Questions that `data` makes of `inputs`, in batches of at most `batch_size`, a multiple of `multiple` rows each.

    `texts` are all questions in order, `indices` those of them in `questions`, and `reasons` maps the index of an
    unanswered one to the reason, which may be known only once its batch is read.  Raises InputError, with the first
    reason, if none can be answered.
    """

    def __init__(self, data: Dataset, inputs: Sequence[str], batch_size: int, multiple: int = 1) -> None:
        self.data, self.multiple = data, multiple
        self.reasons: dict[int, str] = {}
        listed = self._list_questions(inputs)
        self.texts = [Question.at(listed, index) for index in range(len(listed))]
        self.size = min(batch_size, len(self.texts))
        self.indices = [index for index in range(len(self.texts)) if index not in self.reasons]
        try:
            self.questions = self._make_batches(self.indices)
        except InputError:
            self.indices = self._select_readable(self.indices)
            self.questions = self._make_batches(self.indices)
        self.first = self._read_first()

    def _list_questions(self, inputs: Sequence[str]) -> list[str]:
        make = self.data.list_questions if isinstance(self.data, Asks) else list
        try:
            return make(inputs)
        except InputError:
            questions: list[str] = []
            for text in inputs:
                try:
                    questions += make([text])
                except InputError as error:
                    self.reasons[len(questions)] = str(error)
                    questions.append(text)
            return questions

    def _make_batches(self, indices: list[int]) -> Steps:
        if not indices:
            raise InputError(self.reasons[min(self.reasons)])
        return self.data.questions([self.texts[index] for index in indices], self.size, self.multiple)

    def _select_readable(self, indices: list[int]) -> list[int]:
        """Selects the questions that can be read on their own; keeps the reasons of the others."""
        for index in indices:
            try:
                _ = self.data.questions([self.texts[index]], 1, 1)[0]
            except InputError as error:
                said = str(error)
                counted = re.match(r"text 1\b", said)  # data that numbers its questions sees only this one
                self.reasons[index] = said if counted is None else where(self.texts, index) + said[counted.end() :]
        return [index for index in indices if index not in self.reasons]

    def _read_first(self) -> Arrays:
        """Reads a batch to take shapes from."""
        for _, batch in self.batches():
            return batch
        raise InputError(self.reasons[min(self.reasons)])

    def batches(self) -> Iterator[tuple[list[int], Arrays]]:
        """Iterates over batches, each with the indices of its first rows."""
        number = 0
        stream = self.questions.stream(0, len(self.questions))
        while number < len(self.questions):
            indices = self.indices[number * self.size : (number + 1) * self.size]
            number += 1
            try:
                batch = next(stream)
            except InputError:
                stream = self.questions.stream(number, len(self.questions))
                if not (indices := self._select_readable(indices)):
                    continue
                batch = self._make_batches(indices)[0]
            yield indices, batch

    def order_answers(
        self, answers: Iterator[tuple[int, Mapping[str, object]]]
    ) -> Iterator[tuple[str, Mapping[str, object]]]:
        """Pairs every question, in order, with its answer, or with the reason why it has none.

        `answers` have the index of their question, in increasing order.
        """
        expected = 0
        for index, answer in answers:
            yield from self._explain_unanswered(expected, index)
            yield self.texts[index], answer
            expected = index + 1
        yield from self._explain_unanswered(expected, len(self.texts))

    def _explain_unanswered(self, start: int, stop: int) -> Iterator[tuple[str, Mapping[str, object]]]:
        for index in range(start, stop):
            yield self.texts[index], {"unanswered": self.reasons[index]}
