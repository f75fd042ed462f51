"""Classification of clips: the review of `Classes`, and the accuracy with frames in another order."""

import dataclasses

import numpy as np

from train.contracts import Evidence, Findings
from train.data.batches import Arrays
from train.objectives import to_probabilities
from train.page import Piece, make_table
from train.review.classes import Classes


@dataclasses.dataclass(frozen=True)
class ClipClasses(Classes):
    """The metrics of `Classes`, and `accuracy_shuffled`: the accuracy with the frames of each clip shuffled by `seed`.

    If it is as high, the model sees what is there and not how it moves.  Shows the frames of `shown` clips of the part.
    """

    shown: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shown < 0 or self.seed < 0:
            raise ValueError(f"ClipClasses has shown {self.shown} and seed {self.seed}; neither is below 0.")

    def review(self, evidence: Evidence) -> Findings:
        """The findings on all clips."""
        cases = list(evidence.cases())
        again = list(evidence.cases(self.shuffle))
        if not again:
            return Findings()
        plain = self.review_cases(evidence, cases)
        right = [int(case.output.argmax()) == int(case.target["labels"]) for case in again]
        names, every = evidence.data.names, max(1, len(cases) // max(1, self.shown))
        rows = []
        for case in sorted(cases, key=lambda case: case.index)[every // 2 :: every][: self.shown]:
            probabilities = to_probabilities(case.output)
            predicted = f"{names[int(probabilities.argmax())]} {probabilities.max():.3f}"
            rows.append((evidence.show_example(case.index), predicted, names[int(case.target["labels"])]))
        pictures: dict[str, Piece] = (
            {"Clips, with what was predicted": make_table(("frames", "predicted", "true"), rows)} if rows else {}
        )
        metrics = plain.metrics | {"accuracy_shuffled": float(np.mean(right))}
        return Findings(metrics, plain.pictures | pictures, plain.baselines)

    def shuffle(self, batch: Arrays) -> Arrays:
        """Shuffles the frames of each clip of a batch, by the seed and the clip's index in the split."""
        orders = [
            np.random.default_rng((self.seed, index)).permutation(batch["video"].shape[1])
            for index in batch["index"].tolist()
        ]
        return batch | {"video": np.stack([clip[order] for clip, order in zip(batch["video"], orders, strict=True)])}
