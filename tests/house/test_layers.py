"""Imports point down: from the commands to the models, and never to a test."""

from pathlib import Path

from tests.house.layers import circles, importers_of_test_files, importers_of_tests, unknown, upward

ROOT = Path(__file__).parents[2]


def test_every_module_belongs_to_a_part_of_the_house() -> None:
    assert unknown(ROOT) == [], "add it to PARTS of tests/house/layers.py"


def test_no_import_points_up() -> None:
    assert upward(ROOT) == set(), "import downwards only, or pass the value in"


def test_no_two_parts_of_a_level_import_each_other() -> None:
    assert circles(ROOT) == set()


def test_nothing_that_is_shipped_imports_a_test() -> None:
    assert importers_of_tests(ROOT) == set()


def test_nothing_imports_from_a_test_file() -> None:
    assert importers_of_test_files(ROOT) == set(), "move what is shared to a file that holds no tests"


def test_tests_have_the_folders_of_the_source() -> None:
    folders = {
        path.parent.relative_to(ROOT / "tests").as_posix()
        for part in ("models", "train")
        for path in (ROOT / "tests" / part).rglob("test_*.py")
    }
    assert {folder for folder in folders if not (ROOT / folder / "__init__.py").is_file()} == set(), "no such package"
