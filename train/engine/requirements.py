"""Requirements of the data on an experiment: settings that follow it, and those that do not fit it."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping

from models.structure import fields, part, replace
from models.words import join
from train.contracts import Dataset, Requirement, Requires
from train.data.needs import AtLeast, Equal
from train.errors import InputError
from train.experiment import Experiment

HEAD = "model.head."  # prefix of settings whose parameters are never pretrained


@dataclasses.dataclass(frozen=True)
class Change:
    """A setting that followed the data."""

    path: str
    before: object
    after: object
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.before} -> {self.after}, as {self.reason}"

    def record(self) -> dict[str, object]:
        """Encodes the change for experiment.json."""
        return dataclasses.asdict(self)


def collect_requirements(experiment: Experiment, data: Dataset) -> dict[str, Requirement]:
    """Collects requirements by path: the number of classes, the vocabulary, and those that the data states itself."""
    required: dict[str, Requirement] = {}
    if count := len(data.classes):
        required["model.head.classes"] = Equal(count, f"the data has {count} classes ({join(data.classes)})")
    if count := data.vocab:
        least = AtLeast(count, f"the tokenizer has {count} tokens")
        required |= {f"model.{name}.vocab": least for name in ("embed", "source_embed", "head")}
    if isinstance(data, Requires):
        required |= data.requires(experiment.model, experiment.objective)
    return required


def iterate_settings(experiment: Experiment, data: Dataset) -> Iterator[tuple[str, object, Requirement]]:
    """Iterates over the settings that data requires something of: path, value and requirement."""
    for path, requirement in collect_requirements(experiment, data).items():
        with contextlib.suppress(LookupError):
            if (value := part(experiment, path)) is not None:
                yield path, value, requirement


def require(experiment: Experiment, data: Dataset) -> None:
    """Raises InputError for the first setting that does not fit the data, with the value that would."""
    for path, value, requirement in iterate_settings(experiment, data):
        if requirement.holds(value):
            continue
        reason = requirement.reason
        instead = requirement.instead and f"{requirement.instead}={value} or "
        said = reason if "." in reason.split()[0] else reason[:1].upper() + reason[1:]
        raise InputError(f"{said} and {path} is {value}; set {instead}{path}={requirement.value}.")


def settle(experiment: Experiment, data: Dataset) -> tuple[Experiment, tuple[Change, ...]]:
    """Sets the settings that follow the data, and returns their changes; others stay even if they do not fit.

    A setting follows if it is left at the default of its class, or if it stands in a config and something that the
    requirement depends on was overridden.  Overridden settings stay, and so do those of pretrained weights.
    """
    changes: list[Change] = []
    for path, value, requirement in iterate_settings(experiment, data):
        fits = value == requirement.value if requirement.tight else requirement.holds(value)
        if not fits and follows(experiment, path, requirement):
            changes.append(Change(path, value, requirement.value, requirement.reason))
    for change in changes:
        experiment = replace(experiment, change.path, change.after)
    return experiment, tuple(changes)


def follows(experiment: Experiment, path: str, requirement: Requirement) -> bool:
    """Tells if a setting may be changed to fit the data."""
    if path in experiment.given or (experiment.initial is not None and not path.startswith(HEAD)):
        return False
    above, _, name = path.rpartition(".")
    if part(experiment, path) == collect_defaults(part(experiment, above)).get(name, dataclasses.MISSING):
        return True
    prefixes = [f"{overridden}." for overridden in experiment.given]
    if any(path.startswith(prefix) for prefix in prefixes):
        return False
    return any(prefix.startswith(f"{source}.") for prefix in prefixes for source in requirement.depends)


def collect_defaults(component: object) -> Mapping[str, object]:
    """Collects the defaults of a component's fields by name."""
    return {field.name: field.default for field in fields(component)} if dataclasses.is_dataclass(component) else {}
