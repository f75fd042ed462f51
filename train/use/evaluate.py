"""Evaluation of a trained run, and its answers: predictions and generated text."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from models.contracts import Tree
from models.decoding.beam import beam
from models.decoding.sampling import Sampler, padded
from models.decoding.sampling import generate as continued
from models.decoding.speculative import Draft, speculate
from train import baselines
from train.contracts import Arrays, Dataset, Findings, Objective, Params, Restores, Searches, Tokenised, Tokenizer
from train.data.notes import get_notes
from train.engine.checkpoint import Store
from train.engine.constant import add_constant, read_constant
from train.engine.evidence import Trained, measure, search_batch
from train.engine.folder import Recorded
from train.engine.prepared import Inference, prepare_evaluation, prepare_inference
from train.errors import InputError, convert_errors
from train.precision import cast
from train.report.cautions import describe_uncertain
from train.summary import Evaluation, list_measured, replace_nonfinite
from train.use.questions import QuestionBatches


def evaluate(folder: Path, run: Recorded, best: bool = False) -> Evaluation:
    """Evaluates a run's last checkpoint (or its best) on the test split: metrics with their 95 % intervals."""
    inference = prepare_evaluation(run.experiment, run.experiment.data.open(run.classes, "test"))
    step, params = restore_params(folder, inference, best)
    measured = measure(inference, params)
    assert measured is not None
    trained = Trained(inference, params, {name: value for name, (value, _) in measured.items()})
    review = run.experiment.review
    findings = Findings() if review is None else review.review(trained)
    if (constant := read_constant(folder)) is not None:
        findings = add_constant(trained, findings, constant)
    cautions = [f"{text}." for text in (describe_uncertain(inference),) if text]
    return {
        "run": str(folder),
        "step": step,
        "evaluation": list_measured(measured),
        "review": replace_nonfinite(findings.metrics),
        "baselines": {
            metric: replace_nonfinite(values) for metric, values in baselines.record(findings.baselines).items()
        },
        "warnings": [*cautions, *baselines.list_warnings({**trained.measured, **findings.metrics}, findings.baselines)],
        "data": [note.record() for note in get_notes(inference.data)],
    }


def predict(
    folder: Path, run: Recorded, inputs: Sequence[str], best: bool = False
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Answers each question, in order, by a run's last checkpoint (or its best): pairs of a question and its answer.

    An input is a question, or makes several: a folder of images, a table of rows.  One that cannot be read has the
    answer `unanswered`, the reason.  Raises InputError if none can be read.
    """
    experiment = run.experiment
    data = experiment.data.reader(run.classes)
    parallel = experiment.parallel
    with convert_errors():
        asked = QuestionBatches(data, inputs, experiment.evaluation.batch_size, parallel.size())
    inference = prepare_inference(experiment, data, asked.first)
    _, params = restore_params(folder, inference, best)
    for note in get_notes(data):
        print(note, file=sys.stderr, flush=True)
    if isinstance(experiment.objective, Searches):
        questions = asked.questions.stream(0, len(asked.questions))
        outputs = (pair for batch in questions for pair in search_batch(inference, params, batch))

        def decode(ids: list[int]) -> str:
            assert isinstance(data, Tokenised)  # Inference.search refuses other data
            return data.tokens.decode(ids).strip()

        yield from asked.order_answers((asked.indices[index], {"translation": decode(ids)}) for index, ids in outputs)
        return

    def compute_answers() -> Iterator[tuple[int, Mapping[str, object]]]:
        for indices, batch in asked.batches():
            outputs = jax.tree.map(
                lambda leaf: np.asarray(leaf, np.float32), inference.outputs(params, parallel.put(batch))
            )
            for row, index in enumerate(indices):
                yield index, format_output(experiment.objective, data, outputs, batch, row)

    yield from asked.order_answers(compute_answers())


def format_output(
    objective: Objective, data: Dataset, outputs: Tree, batch: Arrays, row: int | tuple[int, int]
) -> Mapping[str, object]:
    """Formats the output of a row of a batch as the objective's answer, in units of the data.

    `row` is (row, number) for one of the examples that are packed in a row.
    """
    output = jax.tree.map(lambda leaf: leaf[row], outputs)
    if "segments" in batch and isinstance(output, np.ndarray) and output.ndim > 1:
        output = output[: (batch["segments"][row] > 0).sum()]
    if isinstance(data, Restores):
        output = data.restored(output, {name: value[row] for name, value in batch.items()})
    with convert_errors(
        f"The objective {type(objective).__name__} cannot put in words what the model gives: ",
        "; leave objective as it was trained",
    ):
        return objective.answer(output, data.names)


def generate(
    folder: Path,
    run: Recorded,
    prompts: Sequence[str],
    steps: int,
    sampler: Sampler,
    seed: int = 0,
    beams: int = 0,
    best: bool = False,
    foretell: Callable[[Tokenizer], Draft] | None = None,
) -> Iterator[list[str]]:
    """Continues each prompt by a run's last checkpoint (or its best): yields the texts so far, token by token.

    Yields once with beams, and once a pass of the model with a draft, which `foretell` makes for the tokenizer.  Raises
    InputError if the data has no tokenizer, a prompt has no tokens, or the model cannot decode.
    """
    experiment = run.experiment
    data = experiment.data.reader(run.classes)
    if not isinstance(data, Tokenised):
        raise InputError(
            f"{type(experiment.data).__name__} has no tokenizer, so the run generates no text; use another run."
        )
    model = experiment.model
    tokens = data.tokens
    with convert_errors("This run cannot generate text: "):
        batch = padded([list(ids) for ids in tokens.encode(prompts)])
        inference = prepare_inference(experiment, data, {name: np.asarray(value) for name, value in batch.items()})
        params = cast(restore_params(folder, inference, best)[1], experiment.precision)
        if beams:
            yield [tokens.decode(row.tolist()) for row in np.asarray(beam(model, params, batch, steps, beams)[0])]
            return
        if foretell is None:
            pieces = (np.asarray(token)[:, None] for token in continued(model, params, batch, steps, sampler, seed))
        else:
            pieces = speculate(model, params, batch, steps, foretell(tokens), sampler, seed)
        columns: list[np.ndarray] = []
        for piece in pieces:
            columns.append(piece)
            yield [tokens.decode(row.tolist()) for row in np.concatenate(columns, 1)]


def restore_params(folder: Path, inference: Inference, best: bool) -> tuple[int, Params]:
    """Restores the placed parameters of the last checkpoint, or of the best, with its step.

    Raises InputError if there is none.
    """
    if not (folder / "checkpoints").is_dir():
        raise InputError(f"{folder} has no checkpoint yet; train it first.")
    watched = inference.experiment.evaluation
    with Store(folder / "checkpoints", metric=watched.metric, greater=watched.greater, reading=True) as store:
        step = store.find_best() if best else next(iter(store.list_steps()), None)
        if step is None:
            raise InputError(f"{folder} has no {'evaluated ' if best else ''}checkpoint yet; train it first.")
        params = store.restore_params(inference.parallel.logical(inference.shapes), step)
    return step, inference.parallel.spread(params, consume=True)
