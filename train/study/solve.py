"""Numbers that make a cost equal a target: a factor of real numbers, or an integer between two that miss it."""

from collections.abc import Callable

TRIES = 12
MOST = 64  # times a value that is tried at most; and invalid integers in a row that are stepped over


def solve_factor(ratio: Callable[[float], float], near: float) -> float:
    """The factor at which a growing function is 1, by regula falsi, to `near`; the nearest end if there is none."""
    low, high = 1 / 1024, 1.0
    while ratio(high) < 1 and high < MOST:
        low, high = high, high * 4
    below, above = ratio(low) - 1, ratio(high) - 1
    if below >= 0:
        return low
    if above <= 0:
        return high
    middle = high
    for _ in range(TRIES):
        middle = low - below * (high - low) / (above - below)
        error = ratio(middle) - 1
        if abs(error) < near:
            break
        if error < 0:
            low, below = middle, error
        else:
            high, above = middle, error
    return middle


def solve_integer(ratio: Callable[[int], float | None], start: int) -> list[int]:
    """The integers above 0 next to the point at which a monotone function is 1, at most two, the nearer one first.

    `ratio` is None for an integer that a structure cannot have.
    """
    known: dict[int, float] = {}

    def at(value: int) -> float | None:
        if value not in known and (measured := ratio(value)) is not None:
            known[value] = measured
        return known.get(value)

    def rank() -> list[int]:
        return sorted(known, key=lambda value: (abs(known[value] - 1), value))

    if at(start) is None:
        return []
    for value in (*(start * 2**power for power in range(1, 7)), *(start // 2**power for power in range(1, 11))):
        if value >= 1 and not _brackets(known):
            any(at(next_value) is not None for next_value in range(value, value + min(value, MOST)))
    if not _brackets(known):
        return rank()[:2]
    low, high = _narrow(known)
    while True:
        middle = (low + high) // 2
        inside = sorted(range(low + 1, high), key=lambda value: abs(value - middle))[:MOST]
        if next((value for value in inside if at(value) is not None), None) is None:
            break
        low, high = _narrow(known)
    return sorted((low, high), key=lambda value: abs(known[value] - 1))


def _brackets(known: dict[int, float]) -> bool:
    return min(known.values()) <= 1 <= max(known.values()) and len(known) > 1


def _narrow(known: dict[int, float]) -> tuple[int, int]:
    """The nearest two known integers between which the function passes 1."""
    ordered = sorted(known)
    pairs = [
        (low, high)
        for low, high in zip(ordered, ordered[1:], strict=False)
        if min(known[low], known[high]) <= 1 <= max(known[low], known[high])
    ]
    return min(pairs, key=lambda pair: min(abs(known[value] - 1) for value in pair))
