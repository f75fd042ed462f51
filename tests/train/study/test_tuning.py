"""Settings of a grid: which end of it the best one is."""

import pytest

from train.study.tuning import Tuned


@pytest.mark.parametrize(
    ("grid", "end"),
    [
        ({"a=1": 2.0, "a=2": 1.0, "a=3": 2.0}, None),
        ({"a=3": 1.0, "a=1": 2.0, "a=2": 2.0}, "greatest"),
        ({"a=3e-4": 1.0, "a=1e-2": 2.0}, "least"),
        ({"a=1": 1.0, "b=2": 2.0}, None),
        ({"m=A(1, b=2)": 1.0, "m=B()": 2.0}, None),
        ({"a=1": 1.0}, None),
    ],
)
def test_a_grid_ends_at_its_least_and_its_greatest_number(grid: dict[str, float], end: str | None) -> None:
    assert Tuned(grid).end == end
