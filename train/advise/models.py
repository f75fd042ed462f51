"""Models that are tried on a task, and short trials of them: a model trained for some steps, scored by example."""

import dataclasses
import functools
import shlex
import time
from collections.abc import Callable

import jax
import numpy as np

from models.contracts import Batch, Model
from train.advise.measured import Kind, Measured
from train.advise.problem import Problem
from train.advise.terms import MODEL, Limits, Terms, protect
from train.advise.windows import average_series
from train.config import load_config
from train.contracts import Data, Dataset, Objective, Params, Scores, Searches
from train.cost.traced import count_parameters
from train.engine.prepared import Prepared, prepare
from train.engine.requirements import settle
from train.engine.step import make_sums
from train.experiment import Experiment
from train.optimizers import Private
from train.precision import Precision
from train.study.costs import measure_memory
from train.sums import sum_by_example

FEWEST = 32  # steps of a trial
SCRATCH = (
    "initial=none",
    "model.embed=TokenEmbed(30522, 128)",
    "model.stack=Stack(Block(Attention(4, position=RoPE()), MLP(), PreNorm(LayerNorm())), 2, LayerNorm())",
)
ADAMW = "AdamW(Linear({rate}, warmup=0.06), decay=0.01, clip=1.0{more})"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model to try: overrides of the task's config, and its update rule unless that is the config's."""

    name: str
    kind: Kind
    overrides: tuple[str, ...] = ()
    rule: str = ""

    def list_overrides(self, limits: Limits) -> list[str]:
        """Lists the overrides; the update rule within `Private` if training is private."""
        if limits.epsilon is not None:
            rule = self.rule or ADAMW.format(rate="2e-3", more="")
            return [*self.overrides, f"optimizer=Private({rule}, epsilon={limits.epsilon:g})"]
        return [*self.overrides, *([f"optimizer={self.rule}"] if self.rule else [])]


def list_candidates(problem: Problem) -> list[Candidate]:
    """Lists the models that are tried on a task."""
    match problem.task:
        case "text classes" | "text values":
            usual = ("data.truncate=true",)
            frozen = ADAMW.format(rate="3e-3", more=", freeze=('^embed', '^stack')")
            head = Candidate("MiniLM, only the head trained", "frozen", usual, frozen)
            limited = problem.limits != Limits()  # of features alone nothing is private, and nothing is explained
            return [
                *([head] if limited else []),
                Candidate("MiniLM, rate 1e-4", "fine-tuned", usual, ADAMW.format(rate="1e-4", more="")),
                Candidate("MiniLM, rate 3e-5", "fine-tuned", usual, ADAMW.format(rate="3e-5", more="")),
                Candidate(
                    "2 layers of width 128", "from scratch", (*usual, *SCRATCH), ADAMW.format(rate="1e-3", more="")
                ),
            ]
        case "image classes":
            return [
                Candidate("ViT, 28 x 28 pixels", "from scratch"),
                Candidate("ViT of width 128, 28 x 28 pixels", "from scratch", ("model.embed.width=128",)),
                Candidate("ViT, 28 x 28 pixels in colour", "from scratch", ("data.channels=3",)),
                Candidate("ViT, 56 x 56 pixels in colour", "from scratch", ("data.channels=3", "data.size=(56, 56)")),
            ]
        case "video classes":
            return [
                Candidate("ViViT, 8 frames", "from scratch"),
                Candidate("ViViT, 8 frames in colour", "from scratch", ("data.channels=3",)),
                Candidate("ViViT, 16 frames", "from scratch", ("data.frames=16",)),
            ]
        case "forecasts":
            together = Candidate("encoder, width 64, all series together", "from scratch", ("data.channels=together",))
            return [
                Candidate("encoder, width 64, each series alone", "from scratch"),
                Candidate("encoder, width 128, each series alone", "from scratch", ("model.embed.width=128",)),
                *([together] if len(problem.features) > 1 else []),
            ]
        case "language":
            return [
                Candidate("4 layers of width 128", "from scratch"),
                Candidate("4 layers of width 256", "from scratch", ("model.embed.width=256",)),
                Candidate(
                    "4 layers of width 128, gated delta rule",
                    "from scratch",
                    ("model.stack.block.mixer=GatedDeltaNet(heads=4)",),
                ),
            ]
        case "table":
            return []


@functools.lru_cache(maxsize=8)
def open_data(data: Data) -> Dataset:
    """Opens data once for all models that read it in the same way."""
    return data.open()


def open_task(problem: Problem) -> tuple[Problem, Experiment, Dataset]:
    """Opens the data of a task as the first candidate reads it.

    The problem that is returned has the settings without which private training is refused: an example a row, and
    classes that are listed.
    """
    first = list_candidates(problem)[0].overrides
    experiment, _ = load_config(problem.config, [*problem.overrides, *first])
    data = open_data(experiment.data)
    if problem.limits.epsilon is None:
        return problem, experiment, data
    settings = ["data.pack=false"] if problem.task.startswith("text") else []
    if problem.task.endswith("classes"):
        settings.append(f"data.labels={data.classes!r}".replace(" ", ""))
    problem = dataclasses.replace(problem, overrides=(*problem.overrides, *settings))
    experiment, _ = load_config(problem.config, [*problem.overrides, *first])
    return problem, experiment, open_data(experiment.data)


def prepare_candidate(problem: Problem, candidate: Candidate, steps: int | None = None) -> Prepared:
    """Prepares a candidate, for some steps or for as many as its config has.  Raises InputError if it does not fit."""
    overrides = list_overrides(problem, candidate) + ([f"steps={steps}"] if steps else [])
    experiment, _ = load_config(problem.config, overrides)
    data = open_data(experiment.data)
    return prepare(settle(experiment, data)[0], data)


def list_overrides(problem: Problem, candidate: Candidate) -> list[str]:
    """Lists the overrides of the task's config by which a candidate is tried."""
    return [*problem.overrides, *candidate.list_overrides(problem.limits)]


def find_model_terms(prepared: Prepared) -> Terms:
    """Finds what a model keeps of its examples, and how its answers are explained."""
    experiment = prepared.experiment
    optimizer, objective = experiment.optimizer, experiment.objective
    terms = MODEL
    if isinstance(optimizer, Private) and optimizer.epsilon is not None:
        terms = protect(optimizer.epsilon, optimizer.delta)
    if isinstance(objective, Scores) and not isinstance(objective, Searches):
        return terms
    return dataclasses.replace(terms, explained="its answers have no score", explains=False)


def write_command(problem: Problem, candidate: Candidate, steps: int) -> str:
    """Writes the command that trains a candidate as it was tried."""
    return shlex.join(["morphax", "train", problem.config, *list_overrides(problem, candidate), f"steps={steps}"])


def try_candidate(problem: Problem, candidate: Candidate, steps: int) -> tuple[Measured, float]:
    """Trains a candidate and scores it; the measurement and the seconds of a step, the first one left out."""
    prepared = prepare_candidate(problem, candidate, steps)
    state = prepared.begin().state
    since = time.perf_counter()
    placed: Batch = {}
    for number, batch in enumerate(prepared.batches.stream(0, steps)):
        placed = prepared.parallel.put(batch)
        state, _ = prepared.step(state, placed)
        if number == 0:
            jax.block_until_ready(state)
            since = time.perf_counter()
    jax.block_until_ready(state)
    spent = time.perf_counter() - since
    scores, answering = score_examples(prepared, state.params, problem.metric)
    measured = Measured(
        candidate.name,
        candidate.kind,
        scores,
        spent * steps / max(steps - 1, 1),
        answering,
        write_command(problem, candidate, steps),
        find_model_terms(prepared),
        steps,
        count_parameters(prepared.shapes),
        float(prepared.work) * steps,
        memory=measure_memory(prepared.step, state, placed),
    )
    return measured, spent / max(steps - 1, 1)


def score_examples(prepared: Prepared, params: Params, metric: str) -> tuple[np.ndarray, float]:
    """Scores held-out examples (n,), or forecasts averaged over series, by a metric; and the seconds of an answer."""
    experiment, data = prepared.experiment, prepared.data
    program = prepared.parallel.compile_outputs(
        make_scores(experiment.model, experiment.objective, experiment.precision, metric)
    )
    batches = data.batches("test", experiment.evaluation.batch_size, prepared.parallel.size(), None)
    scored: dict[int, float] = {}
    since, counted = time.perf_counter(), 0
    for number, batch in enumerate(batches.stream(0, len(batches))):
        values, weights = map(np.asarray, program(params, prepared.parallel.put(batch)))
        if "index" not in batch:
            values, weights = values.sum(1, keepdims=True), weights.sum(1, keepdims=True)
            index = len(scored) + np.arange(len(values))[:, None]
        elif values.shape[1] == 1:
            index = batch["index"].reshape(-1, 1)
        else:  # packed: examples of a row are numbered from 1
            index = batch["index"]
            values, weights = values[:, 1 : index.shape[1] + 1], weights[:, 1 : index.shape[1] + 1]
        present = weights > 0
        scored |= dict(zip(map(int, index[present]), map(float, values[present] / weights[present]), strict=True))
        if number == 0:
            since, counted = time.perf_counter(), len(scored)
    rest = len(scored) - counted
    answering = (time.perf_counter() - since) / rest if rest else float("nan")
    scores = np.array([scored.get(index, np.nan) for index in range(max(scored, default=-1) + 1)])
    return average_series(data, scores), answering


def make_scores(
    model: Model, objective: Objective, precision: Precision, metric: str
) -> Callable[[Params, Batch], tuple[jax.Array, jax.Array]]:
    """Makes (params, batch) -> sums of a metric and weights by example."""
    measure = make_sums(model, objective, precision)

    def compute(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        each = measure(params, batch)[0][metric].each
        assert each is not None
        return sum_by_example(each.values, batch), sum_by_example(each.weights, batch)

    return compute
