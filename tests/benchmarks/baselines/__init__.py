"""What a simple method reaches on the data of the applications: the numbers that their configs have to beat."""

from typing import Any

from train.data.sources import open_dataset

Figures = dict[str, dict[str, float]]  # of a method its measures
ALL = 2**62


def rows(name: str, part: str, most: int = ALL) -> list[Any]:
    """The first examples of a part of a data set, all by default."""
    examples = open_dataset(name, part).examples
    return [examples[index] for index in range(min(len(examples), most))]
