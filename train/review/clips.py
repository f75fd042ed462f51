"""Classification of clips: what it is of pictures, and what is left of it when the frames come in another order."""

import dataclasses

import numpy as np

from train.contracts import Evidence, Findings
from train.data.batches import Arrays
from train.objectives import probabilities
from train.page import Piece, table
from train.review.classes import Classes


@dataclasses.dataclass(frozen=True)
class ClipClasses(Classes):
    """What `Classes` finds, and `accuracy_shuffled`: the accuracy with the frames of each clip in an order drawn from
    `seed`.

    Where it is as high, the model looks at what is there and not at how it moves.  Shows the frames of `shown` clips of
    the part.
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
        again = list(evidence.cases(self.shuffled))
        if not again:
            return Findings()
        plain = self.found(evidence, cases)
        right = [int(case.output.argmax()) == int(case.target["labels"]) for case in again]
        names, every = evidence.data.names, max(1, len(cases) // max(1, self.shown))
        rows = []
        for case in sorted(cases, key=lambda case: case.index)[every // 2 :: every][: self.shown]:
            chances = probabilities(case.output)
            said = f"{names[int(chances.argmax())]} {chances.max():.3f}", names[int(case.target["labels"])]
            rows.append((evidence.shown(case.index), *said))
        pictures: dict[str, Piece] = (
            {"Clips, with what was predicted": table(("frames", "predicted", "true"), rows)} if rows else {}
        )
        metrics = plain.metrics | {"accuracy_shuffled": float(np.mean(right))}
        return Findings(metrics, plain.pictures | pictures, plain.baselines)

    def shuffled(self, batch: Arrays) -> Arrays:
        """A batch with the frames of each clip in an order that its place in the split decides."""
        orders = [
            np.random.default_rng((self.seed, index)).permutation(batch["video"].shape[1])
            for index in batch["index"].tolist()
        ]
        return batch | {"video": np.stack([clip[order] for clip, order in zip(batch["video"], orders, strict=True)])}
