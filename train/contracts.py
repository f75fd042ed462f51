"""Contracts of an experiment: each new data set, objective, optimizer, schedule or review implements one of these.

A class belongs to a contract by its methods and the names of their arguments, never by a base class.  Optional powers
are small protocols of their own, checked by `isinstance`.
Shape letters: b batch, t time, n examples, c classes.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
import optax

from models.contracts import Batch, Model, Tree
from train.findings import Findings
from train.page import Figure
from train.sums import Sums

PART = Literal["train", "test"]
Arrays = dict[str, np.ndarray]
Params = Tree
Roles = Tree  # a Role for each parameter: see `models.parametrization.roles`


class Steps(Protocol):
    """Batches of a part: `batches[step]`, for any step in any order; `len` is the number of steps in an epoch."""

    def __len__(self) -> int: ...

    def __getitem__(self, step: int) -> Arrays: ...

    def stream(self, start: int, stop: int) -> Iterator[Arrays]: ...


class Dataset(Protocol):
    """Opened data: `classes` of the target, `names` that an answer chooses from, `vocab` token ids (or 0).

    A batch's `weights` are 0 for padding, and its `index` is that of each example in the split.  `questions` are
    batches to predict from.
    """

    classes: tuple[str, ...]
    vocab: int

    @property
    def names(self) -> tuple[str, ...]: ...

    def batches(self, part: PART, batch_size: int, multiple: int, seed: int | None) -> Steps: ...

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Steps: ...


class Data(Protocol):
    """A source of batches: `open` reads, checks and tokenises; `classes` are those of a trained model, if any."""

    def open(self, classes: tuple[str, ...] = (), only: PART | None = None) -> Dataset: ...

    def reader(self, classes: tuple[str, ...] = ()) -> Dataset: ...


@runtime_checkable
class Shows(Protocol):
    """Data that can show an example, as plain text or as a figure."""

    def show_example(self, part: PART, index: int) -> str | Figure: ...


@runtime_checkable
class Asks(Protocol):
    """Data that turns a user's input into questions, such as a folder into its images."""

    def list_questions(self, inputs: Sequence[str]) -> list[str]: ...


@runtime_checkable
class Blank(Protocol):
    """Data whose questions all have the shapes of one: `make_blank` makes the arrays of a question without content."""

    def make_blank(self) -> Arrays: ...


@runtime_checkable
class Restores(Protocol):
    """Data that converts outputs of the model for an example into its units, arrays of NumPy and of JAX alike."""

    def restored(self, output: Tree, example: Arrays) -> Tree: ...


class Tokenizer(Protocol):
    """Encodes texts; `names` are the tokens in the order of their ids."""

    names: tuple[str, ...]

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


@runtime_checkable
class Tokenised(Protocol):
    """Data with a tokenizer."""

    tokens: Tokenizer


@runtime_checkable
class Ends(Tokenised, Protocol):
    """Data with a tokenizer, whose texts end with the token `end`."""

    end: int


@runtime_checkable
class Counted(Protocol):
    """Data of a text: token ids (n,) and the number of characters, by part."""

    ids: Mapping[str, np.ndarray]
    characters: Mapping[str, int]


@runtime_checkable
class Lacks(Protocol):
    """Data that knows which classes have no example to train on."""

    @property
    def unseen(self) -> tuple[str, ...]: ...


@runtime_checkable
class Labelled(Protocol):
    """Data whose examples have a class each: `labels(part)` gives them (n,), in their order."""

    classes: tuple[str, ...]

    def labels(self, part: PART) -> np.ndarray: ...


@runtime_checkable
class Columned(Protocol):
    """Data with columns beside what a model reads: `read_column` gives the cell of every example, in their order."""

    def read_column(self, part: PART, name: str) -> list[object]: ...


@runtime_checkable
class Unasked(Protocol):
    """Data without predictions for a user's input; `unasked` is the reason, such as "data are made by a rule"."""

    unasked: str


class Requirement(Protocol):
    """A condition on a setting: `holds` tells if a value fits the data; a setting that follows the data gets `value`.

    `reason` is a clause such as "the data has 5 classes".  `depends` are the settings that it comes from, `instead` one
    of these that can be set to the model's value.
    """

    @property
    def value(self) -> object: ...

    @property
    def reason(self) -> str: ...

    @property
    def depends(self) -> tuple[str, ...]: ...

    @property
    def instead(self) -> str: ...

    @property
    def tight(self) -> bool: ...

    def holds(self, value: object) -> bool: ...


@runtime_checkable
class Requires(Protocol):
    """Data that requires more of a model than classes and vocabulary: requirements by paths of an experiment.

    A path that the experiment lacks, and a setting that is None, are not checked.
    """

    def requires(self, model: Model, objective: "Objective") -> Mapping[str, Requirement]: ...


class Objective(Protocol):
    """Losses and metrics: (outputs, batch) -> Sums with at least `loss`; `answer` turns one output into JSON values.

    Sums made by `train.sums.sum_weighted` have a confidence interval; a Sum of a total and a weight alone has none.
    """

    def __call__(self, outputs: Tree, batch: Batch) -> Sums: ...

    def answer(self, output: np.ndarray, names: tuple[str, ...]) -> Mapping[str, object]: ...


@runtime_checkable
class Scores(Protocol):
    """An objective with a score of a prediction that can be explained.

    `pick_score` takes the output of an example and the names of the data, and returns a function of such an output,
    differentiable, that gives one number, with the words for it: "log p(positive)".
    """

    def pick_score(
        self, output: np.ndarray, names: tuple[str, ...]
    ) -> tuple[Callable[[jax.Array], jax.Array], str]: ...


@runtime_checkable
class InChunks(Protocol):
    """An objective that also takes the `Projected` logits of a head with `chunk`, if `in_chunks`."""

    @property
    def in_chunks(self) -> bool: ...


@runtime_checkable
class Continues(Protocol):
    """An objective of models that continue texts, such as the next token's, if `continues`."""

    @property
    def continues(self) -> bool: ...


@runtime_checkable
class Searches(Protocol):
    """An objective whose answers a search finds: tokens (b, t), padded with `end`."""

    def search(self, model: Model, params: Params, batch: Batch, end: int) -> jax.Array: ...


@runtime_checkable
class WeighsClasses(Protocol):
    """An objective that reads `emphasis` of a batch: `class_weights` are numbers, one a class, "auto", or None."""

    @property
    def class_weights(self) -> tuple[float, ...] | str | None: ...


@runtime_checkable
class PerValue(Protocol):
    """An objective that reads `per_value` outputs for each value of the data, such as its quantiles, in any layout."""

    @property
    def per_value(self) -> int: ...


class Reweighs(Protocol):
    """Weights q (g,) of the groups of a `column` in the loss: `start(counts)`, and `update` after each step."""

    @property
    def column(self) -> str: ...

    def start(self, counts: np.ndarray) -> np.ndarray: ...

    def update(self, weights: jax.Array, losses: jax.Array, present: jax.Array, counts: jax.Array) -> jax.Array: ...


class Schedule(Protocol):
    """A learning rate over training: `build(steps)` returns step -> rate."""

    def build(self, steps: int) -> optax.Schedule: ...


class Optimizer(Protocol):
    """An update rule: `build(steps, params, roles)` returns the optax transformation.

    If `roles` is None, it knows parameters by path and shape alone.
    """

    def build(self, steps: int, params: Params, roles: Roles | None = None) -> optax.GradientTransformation: ...


@runtime_checkable
class Scheduled(Protocol):
    """An optimizer with a learning rate over training."""

    @property
    def rate(self) -> Schedule: ...


class Parallel(Protocol):
    """The compilation of a step and the placement of its arrays."""

    def size(self) -> int: ...

    def start(self, make: Callable[[], Tree]) -> Tree: ...

    def compile_step(self, step: Callable[..., Tree]) -> Callable[..., Tree]: ...

    def compile_evaluation(self, evaluate: Callable[..., Tree]) -> Callable[..., Tree]: ...

    def compile_outputs(self, outputs: Callable[..., Tree]) -> Callable[..., Tree]: ...

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]: ...

    def whole(self, tree: Tree) -> Tree: ...

    def spread(self, tree: Tree, consume: bool = False) -> Tree: ...

    def logical(self, tree: Tree) -> Tree: ...

    def abstract(self, state: Tree, batch: Tree) -> tuple[Tree, Tree]: ...


class Start(NamedTuple):
    """A model's initial parameters, the paths of those that are fresh, and the names of unused weights."""

    params: Params
    fresh: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


class Initial(Protocol):
    """Initial parameters: `load(model, key)` returns them, and the paths of those that are fresh."""

    def load(self, model: Model, key: jax.Array) -> Start: ...


class Review(Protocol):
    """A review of a trained model on its data: metrics and pieces of the report.

    Its metrics must not depend on the batch size or on the number of devices.
    """

    def review(self, evidence: "Evidence") -> Findings: ...


@runtime_checkable
class Readies(Protocol):
    """A review that checks the data before compilation.  Raises InputError if it lacks something."""

    def ready(self, data: Dataset) -> None: ...


@dataclasses.dataclass(frozen=True)
class Case:
    """One example: the model's output (an array or a tree), its arrays of the batch, its index in the split."""

    output: Tree
    target: Arrays
    index: int


class Evidence(Protocol):
    """Evidence about a trained model on a part of its data, which metrics and reviews read.

    `measured` has the objective's metrics on the part by name; rows of a batch come in multiples of `multiple`, and
    `compiled` and `alone` return outputs of the model, or a function of its parameters, for a batch.  Nothing depends
    on the size of a batch or on the number of devices.  An iteration over all examples ends with an exception of its
    own when a signal stops the run.
    """

    @property
    def data(self) -> Dataset: ...

    @property
    def model(self) -> Model: ...

    @property
    def part(self) -> PART: ...

    @property
    def multiple(self) -> int: ...

    @property
    def measured(self) -> Mapping[str, float]: ...

    def stopped(self) -> bool: ...

    def cases(self, changed: Callable[[Arrays], Arrays] | None = None) -> Iterator[Case]: ...

    def show_example(self, index: int) -> str | Figure: ...

    def first(self, rows: int) -> Arrays: ...

    def compiled(self, function: Callable[[Params, Batch], Tree] | None = None) -> Callable[[Arrays], Tree]: ...

    def alone(self) -> Callable[[Arrays], Tree]: ...

    def search(self) -> Iterator[tuple[int, list[int]]]: ...


@runtime_checkable
class Metric(Protocol):
    """Metrics over all examples that do not add up over batches, such as F1: `metrics=(MacroF1(), TopK(5))`.

    `names` are known before training; `measure` returns each with the half width of its 95 % interval, infinite if it
    has none.  Each may be `evaluation.metric`.  `names` raises ValueError for data that lacks what is measured.
    """

    def names(self, data: Dataset) -> tuple[str, ...]: ...

    def measure(self, evidence: Evidence) -> Mapping[str, tuple[float, float]]: ...
