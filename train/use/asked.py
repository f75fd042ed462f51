"""What a trained run is asked: questions in batches, without those that the data cannot read, whose reasons are
kept.
"""

import re
from collections.abc import Iterator, Sequence

from train.contracts import Arrays, Asks, Dataset, Steps
from train.data.questions import Question, where
from train.errors import InputError


class QuestionBatches:
    """Questions that `data` makes of what is `given`, in batches of at most `batch_size`, their rows a multiple of
    `multiple`.

    `texts` are all questions in order, `places` of them those in `questions`, and `reasons` says by place why one is
    not answered. Some are found out only when their batch is read.  Raises InputError, with the first reason, if none
    can be answered.
    """

    def __init__(self, data: Dataset, given: Sequence[str], batch_size: int, multiple: int = 1) -> None:
        self.data, self.multiple, self.reasons = data, multiple, dict[int, str]()
        listed = self._listed(given)
        self.texts = [Question.at(listed, place) for place in range(len(listed))]
        self.size = min(batch_size, len(self.texts))
        self.places = [place for place in range(len(self.texts)) if place not in self.reasons]
        try:
            self.questions = self._questions(self.places)
        except InputError:
            self.places = self._readable(self.places)
            self.questions = self._questions(self.places)
        self.first = self._first()

    def _listed(self, given: Sequence[str]) -> list[str]:
        listed = self.data.asked if isinstance(self.data, Asks) else list
        try:
            return listed(given)
        except InputError:
            found: list[str] = []
            for one in given:
                try:
                    found += listed([one])
                except InputError as error:
                    self.reasons[len(found)] = str(error)
                    found.append(one)
            return found

    def _questions(self, places: list[int]) -> Steps:
        if not places:
            raise InputError(self.reasons[min(self.reasons)])
        return self.data.questions([self.texts[place] for place in places], self.size, self.multiple)

    def _readable(self, places: list[int]) -> list[int]:
        """Those of the places that can be read on their own; the reasons of the others are kept."""
        for place in places:
            try:
                _ = self.data.questions([self.texts[place]], 1, 1)[0]
            except InputError as error:
                said = str(error)
                counted = re.match(r"text 1\b", said)  # of data that count what they are asked
                self.reasons[place] = said if counted is None else where(self.texts, place) + said[counted.end() :]
        return [place for place in places if place not in self.reasons]

    def _first(self) -> Arrays:
        """A batch to take shapes from."""
        for places, batch in self.batches():
            del places
            return batch
        raise InputError(self.reasons[min(self.reasons)])

    def batches(self) -> Iterator[tuple[list[int], Arrays]]:
        """Batches with the places of their first rows."""
        number, stream = 0, self.questions.stream(0, len(self.questions))
        while number < len(self.questions):
            places = self.places[number * self.size : (number + 1) * self.size]
            number += 1
            try:
                batch = next(stream)
            except InputError:
                stream = self.questions.stream(number, len(self.questions))
                if not (places := self._readable(places)):
                    continue
                batch = self._questions(places)[0]
            yield places, batch

    def ordered(self, answers: Iterator[tuple[int, dict[str, object]]]) -> Iterator[tuple[str, dict[str, object]]]:
        """Every question with its answer, by place, or with the reason why it has none, in order."""
        expected = 0
        for place, answer in answers:
            yield from self._unanswered(expected, place)
            yield self.texts[place], answer
            expected = place + 1
        yield from self._unanswered(expected, len(self.texts))

    def _unanswered(self, start: int, stop: int) -> Iterator[tuple[str, dict[str, object]]]:
        for place in range(start, stop):
            yield self.texts[place], {"unanswered": self.reasons[place]}
