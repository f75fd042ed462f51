"""`Any`: counted, so that a new one takes the place of another."""

from pathlib import Path

import pytest

from tests.house.anys import MOST, untyped_lines
from tests.house.sizes import ROOT


def test_any_stands_where_no_type_exists() -> None:
    found = untyped_lines(ROOT)
    assert len(found) <= MOST, "give these a type, or one of the others:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("from typing import Any\n", 0),
        ("from typing import Any\n\nvalues: dict[str, Any] = {}\n", 1),
        ("many: AnyStr\n\n\ndef f(x: Any) -> Any: ...\n", 1),  # of one line
        ("x: object = 1\n", 0),
    ],
)
def test_a_use_of_any_is_counted(tmp_path: Path, text: str, count: int) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "loose.py").write_text(text)
    assert len(untyped_lines(tmp_path)) == count
