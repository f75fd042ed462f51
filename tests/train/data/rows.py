"""Rows of a split."""

from typing import Any

from train.data.sources import open_dataset


def rows(name: str, part: str) -> list[Any]:
    examples = open_dataset(name, part).examples
    return [examples[index] for index in range(len(examples))]
