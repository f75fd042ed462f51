"""Which tests a command runs: `--tier test` the representatives, `--tier slow` all others, `--slice k/n` one part of n
of them.

A test is slow if it, its class or its file is marked so, and if it differs from an earlier one only in the form of a
component: of tests with the same function and the same types of components the first represents the others.
`@pytest.mark.represented_by("a", "b")` names the cases of a parametrized test that represent all others, by their ids.
"""

import gc
import re
import zlib

import flax.linen as nn
import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --tier and --slice."""
    parser.addoption(
        "--tier", choices=("test", "slow", "all"), default="all", help="representatives, all others, or both (all)"
    )
    parser.addoption("--slice", default="1/1", metavar="K/N", help="of the tests that are chosen, the K-th of N parts")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps the tier and the slice that are asked for."""
    tier, (part, parts) = config.getoption("--tier"), slice_of(str(config.getoption("--slice")))
    if tier != "all" and (unknown := missing(items)):
        raise pytest.UsageError(f"represented_by names cases that do not exist: {', '.join(sorted(unknown))}")
    first = representatives(items)
    chosen = [item for item in items if tier == "all" or (item in first) == (tier == "test")]
    kept = {item for item in chosen if zlib.crc32(unit(item).encode()) % parts == part - 1}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def pytest_collection_finish() -> None:
    """Leaves what stays to the end out of garbage collections, and collects less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)


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
    """A component by its type, a class or a function by its name, anything else as it is written: the same in every
    process.
    """
    if isinstance(value, nn.Module):
        return type(value).__name__
    return str(getattr(value, "__name__", None) or re.sub(r" at 0x[0-9a-f]+", "", str(value)))


def representatives(items: list[pytest.Item]) -> set[pytest.Item]:
    """Of the tests that are not marked slow: the cases that a function names, and of any other function the first of
    each form.
    """
    first: dict[object, pytest.Item] = {}
    for item in items:
        if item.get_closest_marker("slow") is None:
            if names := named(item):
                first |= {item: item} if case(item) in names else {}
            else:
                first.setdefault((function(item), form(item)), item)
    return set(first.values())


def function(item: pytest.Item) -> tuple[object, str]:
    """The test function that an item is a case of."""
    return item.path, getattr(item, "originalname", item.name)


def named(item: pytest.Item) -> tuple[str, ...]:
    """Ids of the cases that represent a function's others."""
    marker = item.get_closest_marker("represented_by")
    return marker.args if marker else ()


def case(item: pytest.Item) -> str:
    """The id of a parametrized test's case."""
    return item.callspec.id if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ""


def missing(items: list[pytest.Item]) -> set[str]:
    """Cases that are named and that no item is."""
    there = {(function(item), case(item)) for item in items}
    return {
        f"{function(item)[1]}[{name}]" for item in items for name in named(item) if (function(item), name) not in there
    }
