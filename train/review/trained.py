"""A trained model and its data, example by example: what every review reads."""

import base64
import dataclasses
import html
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from train.contracts import PART, Shows
from train.data.batches import Arrays
from train.prepared import Inference


@dataclasses.dataclass(frozen=True)
class Case:
    """One example: what the model gave (an array or a tree of them), the arrays of its batch that belong to it, its place in the split."""

    output: Any
    target: dict[str, np.ndarray]
    index: int


@dataclasses.dataclass
class Trained:
    """A model with its parameters, on a part of its data where the objective `measured` so much.  `stop`: whether to give up."""

    trainer: Inference
    params: Any
    measured: dict[str, float]
    part: PART = "test"
    stop: Callable[[], bool] = lambda: False

    def cases(self, changed: Callable[[Arrays], Arrays] = lambda batch: batch) -> Iterator[Case]:
        """Every example exactly once, with what the model gives for it, in the order of the batches.  Ends early where it is stopped.

        `changed` gives the batch that the model sees in the place of one of the data's.
        """
        trainer = self.trainer
        outputs = trainer.outputs
        batches = trainer.data.batches(self.part, trainer.experiment.evaluation.batch_size, trainer.parallel.size(), None)
        for batch in batches.stream(0, len(batches)):
            if self.stop():
                return
            batch = changed(batch)
            given = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), outputs(self.params, trainer.parallel.put(batch)))
            weights = batch["weights"]
            own = {name: value for name, value in batch.items() if value.shape[: weights.ndim] == weights.shape}
            for place in zip(*np.nonzero(weights > 0), strict=True):
                output = jax.tree.map(lambda leaf, place=place: leaf[place], given)
                yield Case(output, {name: value[place] for name, value in own.items()}, int(batch["index"][place]))

    def shown(self, index: int) -> str:
        """An example as a piece of a page."""
        data = self.trainer.data
        return data.shown(self.part, index) if isinstance(data, Shows) else f"example {index + 1}"


def drawn(figure: Any) -> str:
    """A figure of matplotlib as a piece of a page that needs nothing else."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=144, bbox_inches="tight")
    return f'<img alt="" style="max-width: 100%" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">'


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as a piece of a page; cells are pieces of a page themselves."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
