"""Which tests a command runs: `--tier test` the representatives, `--tier slow` all others, `--slice k/n` one part of n of them.

A test is slow if it, its class or its file is marked so, and if it differs from an earlier one only in the form of a component: of tests
with the same function and the same types of components the first represents the others.
"""

import re
import zlib
from collections.abc import Collection, Mapping

import flax.linen as nn
import pytest
from _pytest.mark import ParameterSet


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --tier and --slice."""
    parser.addoption("--tier", choices=("test", "slow", "all"), default="all", help="representatives, all others, or both (all)")
    parser.addoption("--slice", default="1/1", metavar="K/N", help="of the tests that are chosen, the K-th of N parts")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps the tier and the slice that are asked for."""
    tier, (part, parts) = config.getoption("--tier"), slice_of(str(config.getoption("--slice")))
    first = representatives(items)
    chosen = [item for item in items if tier == "all" or (item in first) == (tier == "test")]
    kept = {item for item in chosen if zlib.crc32(unit(item).encode()) % parts == part - 1}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def mostly_slow(cases: Mapping[str, object], fast: Collection[str]) -> list[ParameterSet]:
    """Cases of a parametrized test by name: those that are named represent the others, which are slow."""
    if missing := set(fast) - set(cases):
        raise ValueError(f"there is no case {sorted(missing)} among {sorted(cases)}")
    return [pytest.param(value, id=name, marks=() if name in fast else pytest.mark.slow) for name, value in cases.items()]


def slice_of(written: str) -> tuple[int, int]:
    """(k, n) of "k/n".  Raises UsageError for anything else."""
    part, _, parts = written.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise pytest.UsageError(f"--slice is {written!r}; give K/N with K from 1 to N, such as 2/8")
    return int(part), int(parts)


def unit(item: pytest.Item) -> str:
    """Tests that are kept together, since they share what is compiled: those of a file with the same components."""
    return f"{item.path.name} {form(item)}"


def form(item: pytest.Item) -> tuple[tuple[str, str], ...]:
    """Parameters of a test by name."""
    given = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return tuple((name, written(value)) for name, value in sorted(given.items()))


def written(value: object) -> str:
    """A component by its type, a class or a function by its name, anything else as it is written: the same in every process."""
    if isinstance(value, nn.Module):
        return type(value).__name__
    return str(getattr(value, "__name__", None) or re.sub(r" at 0x[0-9a-f]+", "", str(value)))


def representatives(items: list[pytest.Item]) -> set[pytest.Item]:
    """The first of the tests of a function that have the same form, if it is not marked slow."""
    first: dict[tuple[object, ...], pytest.Item] = {}
    for item in items:
        if item.get_closest_marker("slow") is None:
            first.setdefault((item.path, getattr(item, "originalname", item.name), form(item)), item)
    return set(first.values())
