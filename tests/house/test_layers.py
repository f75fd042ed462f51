"""Imports point down: from the commands to the models, and never to a test."""

from pathlib import Path

from tests.house.layers import circles, importers_of_test_files, importers_of_tests, unknown, upward

ROOT = Path(__file__).parents[2]

# Imports of today from files of tests; an entry leaves when its import does, and none is added.
OF_TEST_FILES = {
    ("tests.laws.test_implementations", "tests.laws.test_attended"),
    ("tests.laws.test_recurrent_kernel", "tests.laws.test_recurrence"),
    ("tests.laws.test_residuals", "tests.laws.test_stack"),
    ("tests.parity.test_bert_folders", "tests.parity.test_bert"),
    ("tests.parity.test_references", "tests.parity.test_bert"),
    ("tests.test_applications", "tests.test_clips"),
    ("tests.test_baselines", "tests.test_applications"),
    ("tests.test_clips", "tests.test_review"),
    ("tests.test_decodable", "tests.test_generate"),
    ("tests.test_detection", "tests.test_review"),
    ("tests.test_driving", "tests.test_review"),
    ("tests.test_series", "tests.test_review"),
    ("tests.test_upright_videos", "tests.test_clips"),
}


def test_every_module_belongs_to_a_part_of_the_house() -> None:
    assert unknown(ROOT) == [], "add it to PARTS of tests/house/layers.py"


def test_no_import_points_up() -> None:
    assert upward(ROOT) == set(), "import downwards only, or pass the value in"


def test_no_two_parts_of_a_level_import_each_other() -> None:
    assert circles(ROOT) == set()


def test_nothing_that_is_shipped_imports_a_test() -> None:
    assert importers_of_tests(ROOT) == set()


def test_nothing_imports_from_a_test_file() -> None:
    found = importers_of_test_files(ROOT)
    assert found - OF_TEST_FILES == set(), "move what is shared to a file that holds no tests"
    assert OF_TEST_FILES - found == set(), "these are gone: remove them from OF_TEST_FILES"
