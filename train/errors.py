"""The exception for unusable input, and library errors converted to it."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

Json: TypeAlias = "str | float | bool | None | Sequence[Json] | Mapping[str, Json]"  # a value that JSON can hold


class InputError(ValueError):
    """Unusable input of the user; the message is one sentence that says what is wrong and what to do."""

    def _render_traceback_(self) -> list[str]:
        return [f"morphax: {self}"]  # shown by a notebook


@contextlib.contextmanager
def convert_errors(before: str = "", after: str = "") -> Iterator[None]:
    """Re-raises library errors caused by user input as a one-line InputError with an optional prefix and suffix."""
    try:
        yield
    except (InputError, KeyError):
        raise
    except (ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError, OSError, re.error) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{before}{said.rstrip('.') if after else said}{after}") from None
