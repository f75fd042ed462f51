"""Audits of bias by group: every measure of a run's test part by group and intersection, its gaps, and parity."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from models.words import join
from train.data.groups import Grouping, read_groupings
from train.data.tasks.series import OpenedSeries
from train.engine.evidence import Trained
from train.engine.folder import Recorded
from train.engine.prepared import prepare_evaluation
from train.errors import InputError
from train.use.bias.gaps import Gap, Level, compare_groups, measure_level, measure_levels
from train.use.bias.measures import Classed, Measure, compute_calibration_error, find_classes, list_measures
from train.use.bias.parity import Parity, load_metrics, measure_parity
from train.use.bias.thresholds import Kind, Price, Thresholds, fit_groups
from train.use.evaluate import restore_params

FEW = 12  # classes whose rates are all measured
LEAST = 30  # examples below which a group is too small to say


@dataclasses.dataclass(frozen=True)
class Audit:
    """An audit of a run by group.

    `levels` has the measures of each group by the place of its grouping and the measure's name, `overall` those of all
    examples; `calibration` has the expected calibration error of each group of each grouping, if answers are classes.
    """

    step: int
    count: int
    least: int
    measures: tuple[Measure, ...]
    groupings: tuple[Grouping, ...]
    overall: Mapping[str, Level]
    levels: Mapping[tuple[int, str], list[Level]]
    calibration: tuple[list[float], ...]
    parities: tuple[Parity, ...]
    gaps: tuple[Gap, ...]
    warnings: tuple[str, ...]
    thresholds: tuple[Thresholds, Price] | None = None

    @property
    def found(self) -> list[Gap]:
        """The gaps that are more than chance explains, the smallest p-value first."""
        return sorted((gap for gap in self.gaps if gap.found), key=lambda gap: (gap.p, -abs(gap.difference)))

    def count_group(self, grouping: Grouping, index: int) -> int:
        """The number of examples of a group."""
        return int((grouping.members == index).sum())

    def list_small(self) -> list[str]:
        """The groups that are too small to say, with their number of examples."""
        return [
            f"{grouping.title} {name} ({count})"
            for grouping in self.groupings
            for index, name in enumerate(grouping.names)
            if (count := self.count_group(grouping, index)) < self.least
        ]


def audit_groups(
    folder: Path,
    run: Recorded,
    columns: Sequence[str],
    cuts: Mapping[str, Sequence[float]] | None = None,
    positives: Sequence[str] = (),
    least: int = LEAST,
    best: bool = False,
    equalise: Kind | None = None,
) -> Audit:
    """Audits a run's last checkpoint (or its best) on its test part, by columns of the data.

    `positives` names the classes whose rates are measured: by default the second of two, or all of at most 12.
    `least` is the number of examples below which a group is not compared.  `equalise` is a rate that thresholds by
    group are fitted for.  Raises InputError for columns and classes
    that the data do not have.
    """
    load_metrics()
    if least < 2:
        raise InputError(f"--least is {least}; give 2 examples or more.")
    experiment = run.experiment
    data = experiment.data.open(run.classes, "test")
    inference = prepare_evaluation(experiment, data)
    read_groupings(data, "test", columns, cuts or {})  # before anything is compiled
    step, params = restore_params(folder, inference, best)
    cases = list(Trained(inference, params).cases())
    groupings = read_groupings(data, "test", columns, cuts or {}, np.array([case.index for case in cases]))
    classed = find_classes(cases, data.names)
    chosen = choose_positives(classed, positives)
    measures = list_measures(experiment.objective, cases, classed, chosen)
    everything = np.ones(len(cases), bool)
    gaps = compare_groups(measures, groupings, least)
    return Audit(
        step,
        len(cases),
        least,
        tuple(measures),
        tuple(groupings),
        {measure.name: measure_level(measure, everything) for measure in measures},
        {
            (number, measure.name): measure_levels(measure, grouping)
            for number, grouping in enumerate(groupings)
            for measure in measures
        },
        tuple(
            [compute_calibration_error(classed, grouping.members == index) for index in range(len(grouping.names))]
            for grouping in groupings
        )
        if classed is not None
        else (),
        tuple(measure_parity(classed, chosen, groupings, least)) if classed is not None else (),
        tuple(gaps),
        tuple(_list_warnings(data, groupings, gaps, least)),
        None if equalise is None else _fit_thresholds(classed, chosen, groupings, equalise, least),
    )


def _fit_thresholds(
    classed: Classed | None, positives: Sequence[int], groupings: Sequence[Grouping], kind: Kind, least: int
) -> tuple[Thresholds, Price]:
    if classed is None:
        raise InputError("--thresholds decides between classes, and the run's answers are none; leave it out.")
    return fit_groups(classed, positives[0], groupings[-1], kind, least)


def choose_positives(classed: Classed | None, names: Sequence[str]) -> list[int]:
    """Chooses the classes whose rates are measured.  Raises InputError for names of no class."""
    known = classed.names if classed is not None else ()
    for name in names:
        if name not in known:
            raise InputError(
                f"--positive is {name!r}, no class of the run; it has {join(known) or 'none'}."
                if known
                else f"--positive is {name!r}, and the run's answers are no classes; leave it out."
            )
    if names:
        return [known.index(name) for name in names]
    if len(known) == 2:
        return [1]
    return list(range(len(known))) if len(known) <= FEW else []


def _list_warnings(data: object, groupings: Sequence[Grouping], gaps: Sequence[Gap], least: int) -> list[str]:
    warnings: list[str] = []
    if isinstance(data, OpenedSeries) and data.spec.stride < data.spec.horizon:
        warnings.append(
            f"windows overlap (data.stride is {data.spec.stride}, data.horizon {data.spec.horizon}) and are no"
            " independent examples, so gaps are found too easily: audit with data.stride of the horizon or more"
        )
    for grouping in groupings:
        if not any(gap.columns == grouping.columns for gap in gaps):
            warnings.append(
                f"no two groups of {grouping.title} have {least} examples, so nothing is compared: give more data, or a"
                " smaller --least"
            )
    return warnings
