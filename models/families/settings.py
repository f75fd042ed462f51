"""Typed reading of a Hugging Face `config.json`: defaults for absent keys, one sentence for a wrong type or range."""

import math
from collections.abc import Mapping
from typing import TypeGuard

LARGEST = 2**31 - 1  # largest side of an array


class Settings:
    """The keys of a config.  Each method raises ValueError that names the key, its value and what it must be."""

    def __init__(self, config: Mapping[str, object]) -> None:
        self.config = config

    def whole(self, key: str, default: int, most: int = LARGEST) -> int:
        """A whole number from 1 to `most`; 24.0 is 24."""
        value = self.config.get(key, default)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 1 <= value <= most
            or value != int(value)
        ):
            raise self._wrong(key, value, f"a whole number from 1 to {most:,}")
        return int(value)

    def share(self, key: str, default: float) -> float:
        """A number from 0 to below 1."""
        value = self.config.get(key, default)
        if not _number(value) or not 0 <= value < 1:
            raise self._wrong(key, value, "a number from 0 to below 1")
        return float(value)

    def small(self, key: str, default: float) -> float:
        """A number above 0 and below 1."""
        value = self.config.get(key, default)
        if not _number(value) or not 0 < value < 1:
            raise self._wrong(key, value, "a number above 0 and below 1")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.config.get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def choice(self, key: str, options: tuple[str, ...], default: str) -> str:
        """A string of `options`."""
        value = self.config.get(key, default)
        if not isinstance(value, str) or value not in options:
            raise self._wrong(key, value, f"one of {', '.join(options)}")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        """A list of strings, empty if absent or null."""
        value = self.config.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(key, value, "a list of strings")
        return tuple(value)

    def table(self, key: str) -> dict[str, object] | None:
        """An object, or None if absent or null."""
        value = self.config.get(key)
        if value is not None and (not isinstance(value, dict) or not value):
            raise self._wrong(key, value, "an object with an entry for each class")
        return value

    def _wrong(self, key: str, value: object, expected: str) -> ValueError:
        shown = repr(value)
        return ValueError(f"{key} is {shown if len(shown) <= 60 else shown[:57] + '...'}; it must be {expected}.")


def _number(value: object) -> TypeGuard[float]:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and (isinstance(value, int) or math.isfinite(value))
    )
