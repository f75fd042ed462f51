"""Rows of a split."""

from typing import Any

from train.data.source import dataset


def rows(name: str, part: str) -> list[Any]:
    examples = dataset(name, part).examples
    return [examples[index] for index in range(len(examples))]
