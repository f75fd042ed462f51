"""Sizes: files that fit in the head, and lines that fit on a screen."""

from tests.house.sizes import ALLOWED, ROOT, long_files, long_lines, read_allowance, unallowed


def test_no_file_is_too_long() -> None:
    assert long_files(ROOT) == {}


def test_no_line_is_too_long_but_those_of_today() -> None:
    assert unallowed(long_lines(ROOT), read_allowance(ALLOWED)) == []
