"""An experiment as one value: everything that decides what a run computes."""

import dataclasses
import math

from models.contracts import Model
from models.structure import APART
from train.contracts import Data, Initial, Metric, Objective, Optimizer, Parallel, Review, Reweighs
from train.events import Sink
from train.parallel import Jit
from train.precision import Precision


def _require_above_zero(path: str, settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{path}{'.' if path else ''}{name} is {value}; it must be a number above 0.")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Evaluation on the test split every `every` steps (None: each epoch), and at the end, in batches of `batch_size`.

    `metric` picks the best checkpoint, with the smallest value, or the greatest if `greater`: a metric of the
    objective, of `metrics` or of the review.  Training stops after `patience` evaluations without a better value, or
    once the value reaches `goal`.
    """

    every: int | None = None
    batch_size: int = 64
    metric: str = "loss"
    greater: bool = False
    patience: int | None = None
    goal: float | None = None

    def __post_init__(self) -> None:
        _require_above_zero("evaluation", self, "every", "batch_size", "patience")
        if self.goal is not None and not math.isfinite(self.goal):
            raise ValueError(
                f"evaluation.goal is {self.goal}; give the finite value of {self.metric} at which to stop, or none."
            )


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Checkpoints every `every` steps (None: at evaluations), of which the last `keep` and the best are kept."""

    every: int | None = None
    keep: int = 2

    def __post_init__(self) -> None:
        _require_above_zero("checkpoints", self, "every", "keep")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Model, objective, data and optimizer of a run, with its batch size, length, parallelism, metrics and seed.

    Exactly one of `steps` and `epochs` is set.  `initial` loads pretrained parameters, `accumulate` splits a batch into
    parts that are computed in turn, and `log_every` counts steps.  `review` examines the trained model on the test
    split: metrics by their field's library, pictures for the report.  `metrics` are measured at each evaluation beside
    those of the objective: `metrics=(MacroF1(), TopK(5))`.  `sinks` are tracking servers that receive the numbers of a
    run too: `sinks=(WandB("project"),)`.  `groups` weighs groups of examples in the training loss:
    `groups=GroupDRO("region")`.  `seed` decides initial parameters, order of data and dropout.  `given` are
    the paths of overrides, which are never changed to fit the data (see `train.engine.requirements`).  Raises
    ValueError if two settings contradict each other.
    """

    model: Model
    objective: Objective
    data: Data
    optimizer: Optimizer
    initial: Initial | None = None
    batch_size: int = 32
    epochs: float | None = dataclasses.field(default=None, metadata={"instead_of": "steps"})
    steps: int | None = dataclasses.field(default=None, metadata={"instead_of": "epochs"})
    accumulate: int = 1
    precision: Precision = "float32"
    parallel: Parallel = Jit()
    evaluation: Evaluation = Evaluation()
    review: Review | None = None
    metrics: tuple[Metric, ...] = ()
    sinks: tuple[Sink, ...] = ()
    checkpoints: Checkpoints = Checkpoints()
    groups: Reweighs | None = None
    log_every: int = 20
    seed: int = 0
    given: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False, metadata={APART: True})

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                f"epochs is {self.epochs} and steps is {self.steps}; give exactly one of them and set the other to"
                " none."
            )
        _require_above_zero("", self, "batch_size", "accumulate", "log_every", "steps", "epochs")
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate is {self.accumulate} and batch_size is {self.batch_size}; each part needs an example:"
                " lower accumulate or raise batch_size."
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; give a whole number from 0 to {2**32 - 1}.")

    def count_steps(self, epoch: int) -> int:
        """Counts the steps of training from the steps of an epoch."""
        return self.steps if self.steps is not None else math.ceil((self.epochs or 0) * epoch)
