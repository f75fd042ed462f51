"""Reviews say before training that the data has none of what they look at."""

import pytest

from train.contracts import Readies, Review
from train.data.tasks.boxes import Boxes
from train.data.tasks.corpus import Corpus
from train.data.tasks.drives import Drives
from train.data.tasks.series import Series
from train.data.tasks.text import Text
from train.errors import InputError
from train.review.detections import Detections
from train.review.driving import ClosedLoop
from train.review.forecasts import Forecasts
from train.review.powers import Boxed, Driven, Windowed
from train.review.translations import Translations

LOOKS = {
    Detections(): "pictures with boxes",
    ClosedLoop(): "drives",
    Forecasts(): "windows of series",
    Translations(): "translations",
}


@pytest.mark.parametrize("review", LOOKS, ids=lambda review: type(review).__name__)
def test_a_review_refuses_data_that_it_cannot_look_at(review: Review) -> None:
    assert isinstance(review, Readies)
    name = type(review).__name__
    said = f"The review {name} looks at {LOOKS[review]}, and the data has none (OpenedText); set review=none."
    with pytest.raises(InputError) as refused:
        review.ready(Text().reader(("bad", "good")))
    assert str(refused.value) == said


def test_powers_are_those_of_the_data_that_have_them() -> None:
    opened = [Boxes().reader(), Drives().reader(), Series().reader(), Corpus().reader(), Text().reader()]
    found = [[isinstance(data, power) for power in (Boxed, Driven, Windowed)] for data in opened]
    assert found == [[True, False, False], [False, True, False], [False, False, True], [False] * 3, [False] * 3]
