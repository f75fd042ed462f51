"""Lowers the allowance of long lines to what is needed; it is never raised."""

from tests.house.sizes import ALLOWED, ROOT, long_lines, write_allowance

write_allowance(ALLOWED, long_lines(ROOT))
