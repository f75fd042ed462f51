"""Equal budgets: a variant's free fields changed until it costs as much as the baseline."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

from models.structure import fields, part
from train.config import load_config
from train.cost.traced import count_parameters
from train.engine.prepared import Prepared, prepare
from train.engine.requirements import settle
from train.errors import InputError
from train.variants import Budget

WITHIN = 0.01
MULTIPLES = (64, 32, 16, 8, 4, 2, 1)  # of a hidden width, which hardware likes large
TRIES = 12


class UnmatchedError(InputError):
    """A variant that cannot have the budget of the baseline; the message goes on after the variant's name."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """Parameters, and floating-point operations of a training step."""

    parameters: int
    flops: int


@dataclasses.dataclass(frozen=True)
class Match:
    """Overrides that make a variant cost as much as the baseline, its cost with them, and the ratio of budgets."""

    overrides: tuple[str, ...]
    cost: Cost
    ratio: float


def read_cost(prepared: Prepared) -> Cost:
    """The cost of an experiment, counted from its traced step."""
    return Cost(count_parameters(prepared.shapes), prepared.work)


def load_cost(config: str, overrides: Sequence[str], files: Sequence[str] = ()) -> Cost:
    """The cost of a config with overrides.  Raises InputError if it cannot be trained."""
    experiment, _ = load_config(config, list(overrides), files)
    data = experiment.data.open()
    return read_cost(prepare(settle(experiment, data)[0], data))


def find_fields(value: object, path: str = "model", inside: bool = False) -> Iterator[str]:
    """Paths of the fields `expand` of feedforwards, which set their hidden widths over the model's width."""
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from find_fields(item, f"{path}.{index}", inside)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            child, name = getattr(value, field.name), f"{path}.{field.name}"
            if field.name == "expand" and inside and isinstance(child, int | float):
                yield name
            else:
                yield from find_fields(child, name, inside or field.name == "feedforward")


def match(
    config: str,
    overrides: Sequence[str],
    free: Sequence[str],
    budget: Budget,
    target: Cost,
    width: int,
    count: Callable[[str, Sequence[str]], Cost] | None = None,
    files: Sequence[str] = (),
) -> Match:
    """Scales the free fields of a variant by one factor until its budget is the target's within 1 %.

    `free` are paths of numbers that multiply `width`; by default the expansions of feedforwards.  Hidden widths are
    multiples of 64 if that comes near enough, otherwise of less.  Raises UnmatchedError, with what came nearest, if
    nothing does.
    """

    def spend(cost: Cost) -> float:
        return cost.flops if budget == "flops" else cost.parameters

    def price(*more: str) -> Cost:
        changed = [*overrides, *more]
        return load_cost(config, changed, files) if count is None else count(config, changed)

    plain = price()
    ratio = spend(plain) / spend(target) if budget != "none" else 1.0
    if budget == "none" or abs(ratio - 1) <= WITHIN:
        return Match((), plain, ratio)
    experiment, _ = load_config(config, list(overrides), files)
    paths = list(free) or list(find_fields(experiment.model))
    if not paths:
        raise UnmatchedError(
            f"has {ratio:.3f} times the {budget} of the baseline, and no feedforward whose width could change; free"
            " another field with --free PATH, or compare with --match none."
        )
    hidden = {path: float(part(experiment, path)) * width for path in paths}
    costs: dict[tuple[int, ...], Cost] = {}

    def at(factor: float, multiple: int) -> tuple[dict[str, int], Cost]:
        widths = {path: max(multiple, round(value * factor / multiple) * multiple) for path, value in hidden.items()}
        key = tuple(widths.values())
        if key not in costs:
            costs[key] = price(*_write(widths, width))
        return widths, costs[key]

    factor = _solve(lambda x: spend(at(x, 1)[1]) / spend(target))
    tried: list[tuple[dict[str, int], Cost]] = []
    for multiple in MULTIPLES:
        widths, cost = at(factor, multiple)
        ratio = spend(cost) / spend(target)
        if abs(ratio - 1) <= WITHIN:
            return Match(tuple(_write(widths, width)), cost, ratio)
        tried.append((widths, cost))
    widths, cost = min(tried, key=lambda pair: abs(spend(pair[1]) / spend(target) - 1))
    raise UnmatchedError(
        f"cannot have the {budget} of the baseline: with {', '.join(_write(widths, width))} it has"
        f" {spend(cost) / spend(target):.3f} times as many; free another field with --free PATH, make it smaller, or"
        " compare with --match none."
    )


def _write(widths: Mapping[str, int], width: int) -> list[str]:
    return [f"{path}={hidden}/{width}" for path, hidden in widths.items()]


def _solve(ratio: Callable[[float], float]) -> float:
    """The factor at which a growing function is 1, by regula falsi; the nearest end if there is none."""
    low, high = 1 / 1024, 1.0
    while ratio(high) < 1 and high < 64:
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
        if abs(error) < WITHIN / 10:
            break
        if error < 0:
            low, below = middle, error
        else:
            high, above = middle, error
    return middle
