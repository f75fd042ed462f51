"""Cautions before training: one sentence for each setting that works but is hardly intended."""

from models.words import join
from train.contracts import Lacks, Scheduled
from train.engine.prepared import Inference, Prepared
from train.experiment import Experiment
from train.optimizers.private import Protects
from train.optimizers.schedules import describe_unreached

# words in names of metrics that are better if greater, and if smaller
GREATER = ("accuracy", "f1", "bleu", "chrf", "map", "match", "recall", "overlap")
SMALLER = ("loss", "error", "perplexity")


def find_cautions(prepared: Prepared) -> list[str]:
    """Finds odd settings of an experiment on its data, one sentence each."""
    experiment = prepared.experiment
    rate = experiment.optimizer.rate if isinstance(experiment.optimizer, Scheduled) else None
    texts = [
        describe_unreached(rate, prepared.steps),
        _describe_unseen(prepared),
        _check_direction(experiment),
        describe_uncertain(prepared),
        _describe_known_noise(experiment),
    ]
    return [f"{text}." for text in texts if text]


def _describe_unseen(prepared: Prepared) -> str:
    """Describes classes without a training example, which are never predicted; empty if there are none."""
    unseen = prepared.data.unseen if isinstance(prepared.data, Lacks) else ()
    if not unseen:
        return ""
    return (
        f"No example to train on has the class {join(unseen)}; give examples of it, or leave it out of the data and of"
        " data.labels"
    )


def _describe_known_noise(experiment: Experiment) -> str:
    """Describes a private run whose noise anyone can compute; empty if there is none."""
    if not isinstance(experiment.optimizer, Protects) or experiment.optimizer.secret:
        return ""
    return (
        f"optimizer.secret is false, so the noise follows from seed={experiment.seed}, and whoever knows it can take it"
        " off: nothing is protected; set optimizer.secret=true"
    )


def describe_uncertain(measured: Inference) -> str:
    """Describes metrics without a confidence interval; empty if there are none.

    These are metrics whose examples the objective adds up itself.
    """
    names = measured.uncertain
    if not names:
        return ""
    objective = type(measured.experiment.objective).__name__
    verb, whose, word, them = ("has", "its", "Sum", "it") if len(names) == 1 else ("have", "their", "Sums", "them")
    said = f"{join(names)} {verb} no confidence interval, as {objective} gives {whose} {word} without `each`"
    return f"{said}; make {them} by train.sums.sum_weighted(values, weights)"


def _check_direction(experiment: Experiment) -> str:
    """Describes an `evaluation.greater` that makes the worst checkpoint the best; empty if it fits its metric."""
    watched = experiment.evaluation
    wrong = SMALLER if watched.greater else GREATER
    parts = watched.metric.split("_")
    words = {*parts, *(part.rstrip("0123456789") for part in parts)}
    if not any(word in wrong for word in words) or any(
        word in (GREATER + SMALLER) and word not in wrong for word in words
    ):
        return ""
    extreme = "greater" if watched.greater else "smaller"
    return (
        f"evaluation.metric is {watched.metric} and evaluation.greater is {watched.greater}, so the best checkpoint"
        f" is that of the {extreme}"
        f" {watched.metric}; set evaluation.greater={not watched.greater}".replace("=True", "=true").replace(
            "=False", "=false"
        )
    )
