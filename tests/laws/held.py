"""Laws that each component is held to, read off the collected tests.

`pytest tests/laws --collect-only -p tests.laws.held --laws FILE`
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.laws.components import component_classes, modules_within


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--laws", type=Path, required=True, help="where to write the laws of each class, as JSON")


def pytest_collection_finish(session: pytest.Session) -> None:
    known = set(component_classes())
    held: dict[str, set[str]] = {}
    for item in session.items:
        # What a law refuses is held by nothing: those tests expect an error.
        if (
            isinstance(item, pytest.Function)
            and hasattr(item, "callspec")
            and "raises" not in item.function.__code__.co_names
        ):
            given = item.callspec.params.values()
            names = [*item.function.__code__.co_names, *(getattr(value, "__name__", "") for value in given)]
            laws = {name.removeprefix("law_").replace("_", " ") for name in names if name.startswith("law_")}
            for owner in known.intersection(owner for value in given for owner in held_by(value)):
                held.setdefault(owner.__name__, set()).update(laws)
    Path(str(session.config.getoption("--laws"))).write_text(
        json.dumps({name: sorted(laws) for name, laws in sorted(held.items())}), encoding="utf-8"
    )


def held_by(value: Any) -> Iterator[type]:
    """The class that a test's parameter is of; of a trained model, those of its parts."""
    yield from map(type, modules_within(value.model)) if hasattr(value, "objective") else [type(value)]
