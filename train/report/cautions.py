"""Settings that can be used and hardly mean what they say: one sentence each, before training."""

from models.words import join
from train.contracts import Lacks, Scheduled
from train.engine.prepared import Inference, Prepared
from train.experiment import Experiment
from train.optimizers.schedules import unreached

# Words in names of metrics of which more is better, and less.
GREATER = ("accuracy", "f1", "bleu", "chrf", "map", "match", "recall", "overlap")
SMALLER = ("loss", "error", "perplexity")


def find_cautions(prepared: Prepared) -> list[str]:
    """What is odd about an experiment on its data."""
    experiment = prepared.experiment
    rate = experiment.optimizer.rate if isinstance(experiment.optimizer, Scheduled) else None
    found = [
        unreached(rate, prepared.steps),
        _describe_unseen(prepared),
        _check_direction(experiment),
        describe_uncertain(prepared),
    ]
    return [f"{text}." for text in found if text]


def _describe_unseen(prepared: Prepared) -> str:
    """Classes that training has no example of, so that they are never predicted."""
    unseen = prepared.data.unseen if isinstance(prepared.data, Lacks) else ()
    if not unseen:
        return ""
    return f"No example to train on has the class {join(unseen)}; leave it out of data.labels, or give examples of it"


def describe_uncertain(measured: Inference) -> str:
    """Metrics without a confidence interval, as the objective adds examples up itself."""
    names = measured.uncertain
    if not names:
        return ""
    objective = type(measured.experiment.objective).__name__
    verb, whose, word, them = ("has", "its", "Sum", "it") if len(names) == 1 else ("have", "their", "Sums", "them")
    said = f"{join(names)} {verb} no confidence interval, as {objective} gives {whose} {word} without `each`"
    return f"{said}; make {them} by train.sums.weighted(values, weights)"


def _check_direction(experiment: Experiment) -> str:
    """A best checkpoint that would be the worst."""
    watched = experiment.evaluation
    wrong = SMALLER if watched.greater else GREATER
    parts = watched.metric.split("_")
    words = {*parts, *(part.rstrip("0123456789") for part in parts)}
    if not any(word in wrong for word in words) or any(
        word in (GREATER + SMALLER) and word not in wrong for word in words
    ):
        return ""
    asked = "greater" if watched.greater else "smaller"
    return (
        f"evaluation.metric is {watched.metric} and evaluation.greater is {watched.greater}, so the best checkpoint"
        f" is that of the {asked}"
        f" {watched.metric}; set evaluation.greater={not watched.greater}".replace("=True", "=true").replace(
            "=False", "=false"
        )
    )
