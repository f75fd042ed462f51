"""Counterfactual audits: the change of a run's predictions between texts that differ in a term."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from train.contracts import Asks, Continues, Shows, Tokenised
from train.engine.folder import Recorded
from train.engine.prepared import Inference, prepare_inference
from train.errors import InputError, convert_errors
from train.sums import LEVEL, compute_wilson_limits
from train.use.bias.gaps import estimate
from train.use.bias.pairs import Pair, Term, swap_terms
from train.use.evaluate import format_output, restore_params
from train.use.questions import QuestionBatches

TOTAL, MEAN = "log p", "log p a token"


@dataclasses.dataclass(frozen=True)
class Score:
    """The prediction for a text: numbers by name, and the label if answers are classes."""

    numbers: Mapping[str, float]
    label: str = ""


@dataclasses.dataclass(frozen=True)
class Change:
    """The mean change of a number from the first to the second text of pairs of a kind, over `count` examples.

    The interval (`low`, `high`) holds for all changes of an audit at once with 95 % (Bonferroni).
    """

    kind: str
    number: str
    count: int
    first: float
    second: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """The second mean less the first."""
        return self.second - self.first

    @property
    def found(self) -> bool:
        """True if the change is more than chance explains."""
        return not self.low <= 0 <= self.high


@dataclasses.dataclass(frozen=True)
class Share:
    """A share of `count` pairs of a kind, with its 95 % Wilson interval."""

    kind: str
    words: str
    count: int
    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Swaps:
    """A counterfactual audit: changes and shares by kind; `small` are kinds with too few examples to say."""

    step: int
    least: int
    changes: tuple[Change, ...]
    shares: tuple[Share, ...]
    small: tuple[str, ...]
    unread: tuple[str, ...]
    examples: tuple[tuple[Pair, str, float], ...]

    @property
    def found(self) -> list[Change]:
        """The changes that are more than chance explains."""
        return [change for change in self.changes if change.found]


def list_texts(run: Recorded, file: str | None) -> list[str]:
    """Lists the texts of a user's file, or of a run's test part.  Raises InputError for data without texts."""
    spec = run.experiment.data
    if file is not None:
        reader = spec.reader(run.classes)
        if isinstance(reader, Tokenised) and isinstance(reader, Asks):
            return [str(text) for text in reader.list_questions([file])]
    elif isinstance(data := spec.open(run.classes, "test"), Shows) and isinstance(data, Tokenised):
        batches = data.batches("test", 64, 1, None)
        indices = {int(i) for batch in batches.stream(0, len(batches)) for i in batch["index"][batch["weights"] > 0]}
        return [str(data.show_example("test", index)) for index in sorted(indices)]
    raise InputError(
        f"{type(spec).__name__} has no texts of examples in which terms could be substituted; give a file of texts by"
        " --data, or pairs of texts by --pairs, to a run that reads text."
    )


def audit_terms(
    folder: Path, run: Recorded, texts: Sequence[str], terms: Sequence[Term], least: int, best: bool
) -> Swaps:
    """Audits the change of a run's predictions when terms of texts are substituted."""
    pairs = list(swap_terms(texts, terms))
    if not pairs:
        raise InputError(
            f"None of the {len(texts)} texts has a term of the list; give other texts by --data, or other terms."
        )
    return audit_pairs(folder, run, pairs, least, best)


def audit_pairs(folder: Path, run: Recorded, pairs: Sequence[Pair], least: int, best: bool) -> Swaps:
    """Audits the change of a run's predictions between the texts of pairs.

    Of classes the probability of each (of two, of the second), of regression the value; of language models the
    log-odds log p(second) - log p(first) of whole texts, in which what stands before both cancels.  Pairs of one
    example are averaged, as they are not independent.  Shares are those of pairs with another label, and of language
    models those whose second text is likelier a token, the stereotype score of StereoSet (arXiv:2004.09456).
    """
    if least < 2:
        raise InputError(f"--least is {least}; give 2 examples or more.")
    texts = list(dict.fromkeys(text for pair in pairs for text in (pair.first, pair.second, pair.unrelated) if text))
    step, scores, reasons = score_texts(folder, run, texts, best)
    answered = [pair for pair in pairs if pair.first in scores and pair.second in scores]
    if not answered:
        raise InputError(f"No pair can be read: {next(iter(reasons.values()))}")
    kinds: dict[str, list[Pair]] = {}
    for pair in answered:
        kinds.setdefault(pair.kind, []).append(pair)
    names = _select_numbers(scores[answered[0].first])
    small = [f"{kind} ({count_origins(several)})" for kind, several in kinds.items() if count_origins(several) < least]
    kept = {
        kind: several for kind, several in kinds.items() if f"{kind} ({len({p.origin for p in several})})" not in small
    }
    level = 1 - (1 - LEVEL) / max(1, len(kept) * len(names))
    changes = [_measure_change(kind, several, scores, name, level) for kind, several in kept.items() for name in names]
    shares = [share for kind, several in kinds.items() for share in _measure_shares(kind, several, scores)]
    largest = sorted(answered, key=lambda pair: -abs(_differ(pair, scores, names[-1])))[:10]
    return Swaps(
        step,
        least,
        tuple(changes),
        tuple(shares),
        tuple(small),
        tuple(reasons.values()),
        tuple((pair, names[-1], _differ(pair, scores, names[-1])) for pair in largest),
    )


def count_origins(pairs: Sequence[Pair]) -> int:
    """Counts the examples that pairs are made of."""
    return len({pair.origin for pair in pairs})


def _select_numbers(score: Score) -> list[str]:
    """Selects the numbers whose changes are measured: of two classes the second, of texts the total log p."""
    names = list(score.numbers)
    if TOTAL in names:
        return [TOTAL]
    return names[1:] if score.label and len(names) == 2 else names


def _differ(pair: Pair, scores: Mapping[str, Score], name: str) -> float:
    return scores[pair.second].numbers[name] - scores[pair.first].numbers[name]


def _measure_change(kind: str, pairs: Sequence[Pair], scores: Mapping[str, Score], name: str, level: float) -> Change:
    origins: dict[int, list[tuple[float, float]]] = {}
    for pair in pairs:
        both = (scores[pair.first].numbers[name], scores[pair.second].numbers[name])
        origins.setdefault(pair.origin, []).append(both)
    means = np.array([np.mean(several, 0) for several in origins.values()])
    apart = means[:, 1] - means[:, 0]
    value, half = estimate(apart, np.ones_like(apart), level)
    first, second = map(float, means.mean(0))
    return Change(kind, name, len(apart), first, second, value - half, value + half)


def _measure_shares(kind: str, pairs: Sequence[Pair], scores: Mapping[str, Score]) -> Iterator[Share]:
    first = scores[pairs[0].first]
    if first.label:
        yield _make_share(kind, "flipped answers", [scores[p.first].label != scores[p.second].label for p in pairs])
    if MEAN in first.numbers:
        yield _make_share(kind, "second text likelier a token", [_differ(p, scores, MEAN) > 0 for p in pairs])
        related = [
            scores[text].numbers[MEAN] > scores[pair.unrelated].numbers[MEAN]
            for pair in pairs
            if pair.unrelated in scores
            for text in (pair.first, pair.second)
        ]
        if related:
            yield _make_share(kind, "related text likelier than the unrelated one", related)


def _make_share(kind: str, words: str, hits: Sequence[bool]) -> Share:
    value = float(np.mean(hits))
    return Share(kind, words, len(hits), value, *compute_wilson_limits(value, len(hits)))


def score_texts(
    folder: Path, run: Recorded, texts: Sequence[str], best: bool
) -> tuple[int, dict[str, Score], dict[str, str]]:
    """Scores texts by a run's last checkpoint (or its best): its step, scores, and reasons of texts without one."""
    experiment = run.experiment
    data = experiment.data.reader(run.classes)
    with convert_errors():
        asked = QuestionBatches(data, texts, experiment.evaluation.batch_size, experiment.parallel.size())
    inference = prepare_inference(experiment, data, asked.first)
    step, params = restore_params(folder, inference, best)
    scores: dict[str, Score] = {}
    for indices, batch in asked.batches():
        outputs = inference.outputs(params, experiment.parallel.put(batch))
        for row, score in enumerate(_score_rows(inference, outputs, batch, len(indices))):
            scores[str(asked.texts[indices[row]])] = score
    return step, scores, {str(asked.texts[index]): reason for index, reason in asked.reasons.items()}


def _score_rows(
    inference: Inference, outputs: jax.Array, batch: Mapping[str, np.ndarray], rows: int
) -> Iterator[Score]:
    objective = inference.experiment.objective
    if isinstance(objective, Continues) and objective.continues:
        sums = objective(outputs, {name: jax.numpy.asarray(value) for name, value in batch.items()})
        each = sums.get("next_token_loss", sums["loss"]).each
        assert each is not None  # objectives of this project that continue texts tell examples apart
        values, weights = (np.asarray(term, np.float64).reshape(len(term), -1).sum(-1) for term in each)
        for row in range(rows):
            yield Score({TOTAL: -float(values[row]), MEAN: -float(values[row] / max(weights[row], 1))})
        return
    whole = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), outputs)
    for row in range(rows):
        answer = format_output(objective, inference.data, whole, dict(batch), row)
        probabilities, value = answer.get("probabilities"), answer.get("value")
        if isinstance(probabilities, dict):
            named = {f"p({name})": float(chance) for name, chance in probabilities.items()}
            yield Score(named, str(answer["label"]))
        elif isinstance(value, float):
            yield Score({"value": value})
        else:
            raise InputError(
                f"Answers of the objective {type(objective).__name__} have no probability and no value to compare;"
                " audit a classifier, a regression or a language model."
            )
