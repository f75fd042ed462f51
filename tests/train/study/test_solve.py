"""Numbers that make a cost equal a target."""

import pytest

from train.study.solve import solve_factor, solve_integer


@pytest.mark.parametrize(("wanted", "start"), [(10, 4), (10, 40), (1, 7), (7, 7), (40, 4)])
@pytest.mark.parametrize("power", [1, 2, -1])
def test_the_integer_is_found_from_either_side_of_growing_and_falling_functions(
    wanted: int, start: int, power: int
) -> None:
    asked: list[int] = []

    def ratio(value: int) -> float:
        asked.append(value)
        return (value / wanted) ** power

    assert solve_integer(ratio, start)[0] == wanted
    assert len(asked) == len(set(asked)) < 24


def test_integers_that_cannot_be_are_stepped_over_and_the_two_next_to_the_target_are_given() -> None:
    found = solve_integer(lambda value: value / 11 if value in (1, 2, 4, 8, 16, 32) else None, 2)
    assert found == [8, 16]
    assert solve_integer(lambda value: None, 3) == []
    assert solve_integer(lambda value: 2 + value / 1000, 4)[0] == 1  # nothing reaches it


def test_the_factor_is_found_or_the_nearest_end() -> None:
    assert solve_factor(lambda x: 0.2 + 0.1 * x, 1e-3) == pytest.approx(8, rel=0.01)
    assert solve_factor(lambda x: 2 + x, 1e-3) == 1 / 1024
