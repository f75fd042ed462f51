"""Sizes: files that fit in the head, and lines that fit on a screen."""

from tests.house.sizes import ROOT, long_files, long_lines


def test_no_file_is_too_long() -> None:
    assert long_files(ROOT) == {}


def test_no_line_is_too_long() -> None:
    assert long_lines(ROOT) == {}
