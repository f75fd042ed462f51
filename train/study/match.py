"""Equal budgets: a variant's free fields changed until it costs as much as the baseline."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

from models.structure import fields, part
from train.config import load_config
from train.cost.value import Cost
from train.engine.prepared import Prepared
from train.errors import InputError
from train.experiment import Experiment
from train.study.costs import load_cost, prepare_config
from train.study.pilot import Ratio, compare_times, time_steps
from train.study.solve import solve_factor, solve_integer
from train.variants import Budget

WITHIN = 0.01
MULTIPLES = (64, 32, 16, 8, 4, 2, 1)  # of a hidden width, which hardware likes large
PILOTS = 5  # structures of one variant whose steps are timed
TIME = "step time"
WORDS = {"flops": "FLOPs", "parameters": "parameters", "state": "bytes of a decoder's state", "time": TIME}
OTHERWISE = "free another field with --free PATH, make it smaller, or compare with --match none."
Count = Callable[[str, Sequence[str]], Cost]
Tried = tuple[float, tuple[str, ...]]  # a ratio of budgets, and the overrides that have it


class UnmatchedError(InputError):
    """A variant that cannot have the budget of the baseline; the message goes on after the variant's name."""


class StructureError(InputError):
    """A structure that cannot be, such as heads that do not divide the width."""


@dataclasses.dataclass(frozen=True)
class Match:
    """Overrides that make a variant cost as much as the baseline, its cost with them, and the ratio of budgets.

    `spread` is half of the 95 % interval of a ratio that is measured, 0 of one that is counted.
    """

    overrides: tuple[str, ...]
    cost: Cost
    ratio: float
    spread: float = 0.0


@dataclasses.dataclass(frozen=True)
class Free:
    """Free fields of a variant: hidden widths (`hidden`) that stand over the model's `width`, and `whole` numbers."""

    hidden: Mapping[str, float]
    whole: Mapping[str, int]
    width: int

    def write(self, factor: float, multiple: int = 1) -> tuple[str, ...]:
        """Overrides that scale all fields by a factor: hidden widths to a multiple, whole numbers to the nearest."""
        widths = {
            path: max(multiple, round(value * factor / multiple) * multiple) for path, value in self.hidden.items()
        }
        counts = {path: max(1, round(value * factor)) for path, value in self.whole.items()}
        return (
            *(f"{path}={hidden}/{self.width}" for path, hidden in widths.items()),
            *(f"{path}={count}" for path, count in counts.items()),
        )


def find_fields(model: object) -> Iterator[str]:
    """Paths of the fields `expand` of feedforwards, which set their hidden widths over the model's width."""
    return _find_within("feedforward", lambda name, value: name == "expand" and isinstance(value, int | float), model)


def find_numbers(model: object) -> Iterator[str]:
    """Paths of whole numbers and of expansions within mixers, any of which may set what a decoder keeps."""

    def fits(name: str, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            return False
        return isinstance(value, int) or "expand" in name

    return _find_within("mixer", fits, model)


def _find_within(
    part: str, fits: Callable[[str, object], bool], value: object, path: str = "model", inside: bool = False
) -> Iterator[str]:
    """Paths of the fields within parts of a name whose own name and value fit."""
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _find_within(part, fits, item, f"{path}.{index}", inside)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            child, name = getattr(value, field.name), f"{path}.{field.name}"
            if inside and fits(field.name, child):
                yield name
            else:
                yield from _find_within(part, fits, child, name, inside or field.name == part)


def read_free(experiment: Experiment, paths: Sequence[str], width: int) -> Free:
    """Reads free fields: those that their class declares as `int` are whole numbers, others multiply the width.

    Raises InputError for a path that leads nowhere, and for a value that is no number above 0.
    """
    hidden: dict[str, float] = {}
    whole: dict[str, int] = {}
    for path in paths:
        owner, _, name = path.rpartition(".")
        try:
            value: object = part(experiment, path)
            declared = {field.name: str(field.type) for field in fields(part(experiment, owner))} if owner else {}
        except (LookupError, TypeError) as error:
            raise InputError(f"--free {path}: {error.args[0]}") from None
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise InputError(
                f"--free {path} is {value!r} and no number above 0, which a match could change; set it first, such as"
                f" {path}=2, or free another field."
            )
        if isinstance(value, int) and "float" not in declared.get(name, "int"):
            whole[path] = value
        else:
            hidden[path] = float(value) * width
    return Free(hidden, whole, width)


def match(
    config: str,
    overrides: Sequence[str],
    free: Sequence[str],
    budget: Budget,
    target: Cost,
    width: int,
    count: Count | None = None,
    files: Sequence[str] = (),
) -> Match:
    """Scales the free fields of a variant by one factor until its counted budget is the target's within 1 %.

    `free` are paths of whole numbers (heads, depth, experts), or of numbers that multiply `width`; by default the
    expansions of feedforwards, and for the budget "state" the first number of a mixer that makes it equal.  Hidden
    widths are multiples of 64 if that comes near enough, otherwise of less.  Raises UnmatchedError, with what came
    nearest, if nothing does.
    """
    if budget == "none":
        return Match((), _price(config, overrides, files, budget, count)(), 1.0)
    price = _price(config, overrides, files, budget, count)
    aim = _spend(target, budget)
    if not aim:
        raise InputError(f"The baseline has no {WORDS[budget]} that could be matched; give another --match.")

    def measure(*more: str) -> float:
        cost = price(*more)
        spent = _spend(cost, budget)
        if spent is None:
            raise UnmatchedError(f"has no {WORDS[budget]} that could be matched; give another --match.")
        return spent / aim

    ratio = measure()
    if abs(ratio - 1) <= WITHIN:
        return Match((), price(), ratio)
    experiment, _ = load_config(config, list(overrides), files)
    choices = [list(free)] if free else _list_choices(experiment, budget)
    if not choices:
        other = "no feedforward whose width could change" if budget != "state" else "no number in a mixer"
        raise UnmatchedError(f"has {ratio:.3f} times the {WORDS[budget]} of the baseline, and {other}; {OTHERWISE}")
    nearest: list[Tried] = []
    for paths in choices:
        chosen = read_free(experiment, paths, width)
        if not free and not _moves(chosen, measure, ratio):
            continue
        for reached, written in _try_fields(chosen, measure):
            if abs(reached - 1) <= WITHIN:
                return Match(written, price(*written), reached)
            nearest.append((reached, written))
    raise UnmatchedError(_explain(WORDS[budget], ratio, nearest))


def match_time(
    config: str,
    overrides: Sequence[str],
    free: Sequence[str],
    baseline: Prepared,
    width: int,
    files: Sequence[str] = (),
    measure: Callable[[Prepared, Prepared], Ratio] | None = None,
) -> Match:
    """Scales the free fields of a variant by one factor until its measured step time is the baseline's.

    The time is that of compiled steps of both in turn, so each of at most PILOTS tries is a compilation.  They are
    equal if the ratio is within 1 % of 1, or within its own 95 % interval if that is wider.  Raises UnmatchedError,
    with what came nearest, if no try is.
    """
    experiment, _ = load_config(config, list(overrides), files)
    compare = measure or _compare
    paths = list(free) or list(find_fields(experiment.model))
    chosen = read_free(experiment, paths, width)
    tried: dict[tuple[str, ...], tuple[float, Ratio]] = {}
    factor, written = 1.0, tuple[str, ...]()
    while len(tried) < PILOTS and written not in tried:
        ratio = compare(prepare_config(config, [*overrides, *written], files), baseline)
        if abs(ratio.value - 1) <= max(WITHIN, ratio.spread):
            cost = load_cost(config, [*overrides, *written], files)
            return Match(written, cost, ratio.value, ratio.spread)
        tried[written] = (factor, ratio)
        if not paths:
            break
        factor = _step(list(tried.values()))
        written = chosen.write(factor)
    seen = [(ratio.value, written) for written, (_, ratio) in tried.items()]
    spread = max(ratio.spread for _, ratio in tried.values())
    raise UnmatchedError(_explain(TIME, seen[0][0], seen, f" (measured, give or take {spread:.3f})"))


def _compare(variant: Prepared, baseline: Prepared) -> Ratio:
    return compare_times(*time_steps([variant, baseline]))


def _step(tried: Sequence[tuple[float, Ratio]]) -> float:
    """The next factor: on the line through the two tries nearest to 1, between 1/8 and 8 times the best one."""
    (x, ratio), *others = sorted(tried, key=lambda pair: abs(pair[1].value - 1))
    guess = x / ratio.value
    if others and others[0][1].value != ratio.value:
        slope = (ratio.value - others[0][1].value) / (x - others[0][0])
        guess = x + (1 - ratio.value) / slope if slope > 0 else guess
    return min(max(guess, x / 8), x * 8)


def _list_choices(experiment: Experiment, budget: Budget) -> list[list[str]]:
    """The free fields to try one after the other, if the user names none."""
    if budget == "state":
        return [[path] for path in find_numbers(experiment.model)]
    paths = list(find_fields(experiment.model))
    return [paths] if paths else []


def _price(
    config: str, overrides: Sequence[str], files: Sequence[str], budget: Budget, count: Count | None
) -> Callable[..., Cost]:
    @functools.cache
    def price(*more: str) -> Cost:
        changed = [*overrides, *more]
        return load_cost(config, changed, files, budget) if count is None else count(config, changed)

    return price


def _spend(cost: Cost, budget: Budget) -> float | None:
    return {"parameters": cost.parameters, "state": cost.state}.get(budget, cost.flops)


def _moves(free: Free, measure: Callable[..., float], ratio: float) -> bool:
    """Tells if twice or half the free fields change the budget."""
    for factor in (2.0, 0.5):
        with contextlib.suppress(InputError):  # a structure that cannot be
            if abs(measure(*free.write(factor)) / ratio - 1) > 1e-9:
                return True
    return False


def _try_fields(free: Free, measure: Callable[..., float]) -> Iterator[Tried]:
    """Ratios of budgets with the settings that reach them, those that come nearest."""
    if free.hidden:
        with contextlib.suppress(StructureError):
            yield from _try_widths(free, _refuse(measure))
            return
    largest = max(*free.whole.values(), *map(round, free.hidden.values()), 0)
    refusing = _refuse(measure)

    def at(number: int) -> float | None:
        try:
            return refusing(*free.write(number / largest))
        except StructureError:
            return None

    for number in solve_integer(at, largest):
        written = free.write(number / largest)
        yield measure(*written), written


def _try_widths(free: Free, measure: Callable[..., float]) -> Iterator[Tried]:
    """Widths that are multiples of less and less; one that is far off by the line through two known ratios is left out,
    since each ratio is a trace of the training step.
    """
    seen: dict[float, float] = {}

    def at(factor: float) -> float:
        seen[factor] = measure(*free.write(factor))
        return seen[factor]

    factor = solve_factor(at, WITHIN / 10)
    least = min(seen)
    slope = (seen[factor] - seen[least]) / (factor - least) if factor > least else 0.0
    total = sum(free.hidden.values())
    for multiple in MULTIPLES:
        rounded = sum(max(multiple, round(value * factor / multiple) * multiple) for value in free.hidden.values())
        if multiple > 1 and abs(seen[factor] + slope * (rounded / total - factor) - 1) > 2 * WITHIN:
            continue
        written = free.write(factor, multiple)
        yield measure(*written), written


def _refuse(measure: Callable[..., float]) -> Callable[..., float]:
    """The same measure, which raises StructureError for settings of a structure that cannot be."""

    def refusing(*more: str) -> float:
        try:
            return measure(*more)
        except UnmatchedError:
            raise
        except InputError as error:
            raise StructureError(str(error)) from None

    return refusing


def _explain(words: str, ratio: float, nearest: Sequence[Tried], note: str = "") -> str:
    """A sentence with the nearest budgets on both sides of the baseline's."""
    if not nearest:
        return (
            f"has {ratio:.3f} times the {words} of the baseline, and no field that it could change moves them;"
            f" {OTHERWISE}"
        )
    sides = [[pair for pair in nearest if pair[0] < 1], [pair for pair in nearest if pair[0] >= 1]]
    best = [min(side, key=lambda pair: abs(pair[0] - 1)) for side in sides if side]
    best.sort(key=lambda pair: abs(pair[0] - 1))
    said = ", and ".join(
        f"with {', '.join(written) or 'no change'} it has {reached:.3f} times {'that' if words == TIME else 'as many'}"
        for reached, written in best
    )
    if len(best) == 1:
        said += ", the nearest that was found"
    return f"cannot have the {words} of the baseline: {said}{note}; {OTHERWISE}"
