"""Probes of structures: small tasks by name, each a study of its own, and the heat map of accuracies."""

import dataclasses
import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import rich.box
import rich.style
import rich.table
import rich.text
from scipy.special import stdtrit

from train.charts import Matrix
from train.errors import InputError, Json
from train.page import Table, add_caption
from train.report.figures import write_figures
from train.report.html import make_page
from train.study.compare import Comparison, Result, enter
from train.study.files import write_report, write_tables
from train.study.trial import Make
from train.variants import BASELINE, Study


@dataclasses.dataclass(frozen=True)
class Probe:
    """A task as a value of `data`, what it asks for, the accuracy of guessing, and further overrides."""

    data: str
    asks: str
    chance: float
    overrides: tuple[str, ...] = ()


PROBES = {
    "recall": Probe("Recall(pairs=4, length=16, vocab=24)", "the value of each of 4 keys", 1 / 8),
    "noisy_recall": Probe("NoisyRecall()", "the same with noise between the pairs", 1 / 16),
    "fuzzy_recall": Probe("FuzzyRecall()", "the value of keys of two tokens", 1 / 12),
    "copy": Probe("Copy()", "16 tokens in their order", 1 / 15),
    "selective_copy": Probe("SelectiveCopy()", "6 tokens among noise, in their order", 1 / 10),
    "induction": Probe("Induction()", "what followed a token before", 1 / 15),
    "needle": Probe("Needle()", "one pair among 64 tokens", 1 / 8),
    "memorisation": Probe("Memorisation()", "a table of 64 keys, never shown", 1 / 64),
    "compression": Probe(
        "Compression()",
        "16 tokens from the last hidden vector alone",
        1 / 15,
        ("model.head=LogitsHead(transform=LastTokenDecoder())",),
    ),
    "parity": Probe("Parity()", "the parity of the bits so far", 1 / 2),
    "state_tracking": Probe("StateTracking()", "the product of permutations of 5 items so far", 1 / 120),
    "longer_copy": Probe("Copy(length=16, stretch=2.0)", "rows twice as long as those of training", 1 / 15),
    "longer_induction": Probe("Induction(stretch=4.0)", "rows 4 times as long as those of training", 1 / 15),
    "longer_parity": Probe("Parity(length=16, stretch=2.0)", "rows twice as long as those of training", 1 / 2),
}
FIXED = (
    "objective=MaskedLM()",
    "epochs=none",
    "evaluation.metric=accuracy",
    "evaluation.greater=true",
    "evaluation.goal=none",
    "model.embed.vocab=128",  # of the largest, so that structures are the same for all
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """Accuracy of a structure at a probe: the mean over seeds, and its 95 % interval by Student's t."""

    mean: float
    low: float
    high: float
    seeds: int
    out: str | None = None


def plan_probes(study: Study, names: Sequence[str], steps: int, rate: str | None = None) -> dict[str, Study]:
    """Plans a study for each probe: the study's structures with the probe's data.

    Raises InputError for an unknown name, and for a study without a number of seeds.
    """
    if study.seeds is None:
        raise InputError("Probes are measured on a number of seeds; give --seeds.")
    for name in names:
        if name not in PROBES:
            raise InputError(f"There is no probe {name!r}; there are {', '.join(PROBES)}.")
    more = (f"steps={steps}", *((f"optimizer.rate.peak={rate}",) if rate is not None else ()))
    probes = {name: PROBES[name] for name in names}
    return {
        name: dataclasses.replace(
            study, overrides=(f"data={probe.data}", *FIXED, *probe.overrides, *more, *study.overrides)
        )
        for name, probe in probes.items()
    }


def run_probes(
    studies: Mapping[str, Study],
    folder: Path,
    make: Make,
    look: Callable[[str, list[Result]], None] = lambda *_: None,
) -> dict[str, list[Result]]:
    """Carries out each study in a folder of its own; what a ledger holds is not done again."""
    entered = {name: enter(study, alone=True) for name, study in studies.items()}  # before anything is trained
    results: dict[str, list[Result]] = {}
    for name, study in studies.items():
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        comparison = Comparison(study, target, entered[name], alone=True)
        results[name] = comparison.run(make, lambda results, *_, name=name: look(name, results))
    return results


def compute_cell(result: Result) -> Cell:
    """Computes the mean accuracy over seeds with its interval, within 0 and 1."""
    x = np.array(result.accuracies)
    if not len(x):
        return Cell(math.nan, math.nan, math.nan, 0, result.entry.out or "it has no accuracy")
    mean, half = float(x.mean()), math.inf
    if len(x) > 1:
        half = float(stdtrit(len(x) - 1, 0.975)) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return Cell(mean, max(0.0, mean - half), min(1.0, mean + half), len(x), result.entry.out)


Cells = dict[str, dict[str, Cell]]  # by structure and probe


def gather_cells(results: Mapping[str, Sequence[Result]]) -> Cells:
    """Gathers the cells of the heat map by structure and probe."""
    cells: Cells = {}
    for probe, of_probe in results.items():
        for result in of_probe:
            cells.setdefault(result.entry.name, {})[probe] = compute_cell(result)
    return cells


def format_cell(cell: Cell) -> str:
    """Formats an accuracy with half of its interval."""
    if cell.out is not None and not cell.seeds:
        return "out"
    return f"{cell.mean:.2f}" + (f" ±{(cell.high - cell.low) / 2:.2f}" if cell.seeds > 1 else "")


def make_heat_table(cells: Cells) -> rich.table.Table:
    """Makes the heat map for a terminal: a row a probe, a column a structure, greener the more accurate."""
    table = rich.table.Table("probe", *cells, "chance", box=rich.box.SIMPLE)
    for probe in next(iter(cells.values())):
        row = [rich.text.Text(probe)]
        for of_structure in cells.values():
            cell = of_structure[probe]
            share = 0.0 if math.isnan(cell.mean) else cell.mean
            shade = rich.style.Style(
                bgcolor=f"rgb({round(40 - 20 * share)},{round(40 + 80 * share)},40)", color="white"
            )
            row.append(rich.text.Text(format_cell(cell), style=shade))
        table.add_row(*row, rich.text.Text(f"{PROBES[probe].chance:.2f}"))
    return table


def record_probes(cells: Cells) -> dict[str, Json]:
    """Records the heat map as JSON values; what is not finite is null."""
    return {
        structure: {
            probe: {
                "accuracy": None if math.isnan(cell.mean) else cell.mean,
                "interval": None if math.isnan(cell.low) else [cell.low, cell.high],
                "seeds": cell.seeds,
                "chance": PROBES[probe].chance,
                "out": cell.out,
            }
            for probe, cell in of_structure.items()
        }
        for structure, of_structure in cells.items()
    }


def write_probe_page(folder: Path, study: Study, cells: Cells) -> None:
    """Writes report.html, summary.json, tables and figures: the heat map, and the table with intervals."""
    structures, probes = list(cells), list(next(iter(cells.values())))
    heat = Matrix(
        tuple(tuple(np.nan_to_num(cells[name][probe].mean) for name in structures) for probe in probes),
        tuple(probes),
        tuple(structures),
        "structure",
        "probe",
        full=1.0,
    )
    rows = tuple(
        (probe, PROBES[probe].asks, *(format_cell(cells[name][probe]) for name in structures))
        + (f"{PROBES[probe].chance:.2f}",)
        for probe in probes
    )
    table = Table(("probe", "asks for", *structures, "guessing"), rows)
    outs = [
        f"{name}, {probe}: {cell.out}" for name in structures for probe in probes if (cell := cells[name][probe]).out
    ]
    sections = {
        "Accuracy by probe": add_caption("share of the asked tokens that are right, mean over seeds", heat),
        "With intervals": add_caption(
            f"95 % intervals over seeds; {BASELINE} is the config's structure",
            table,
        ),
        "Left out": "".join(f"<p>{html.escape(text)}</p>" for text in outs),
        "Study": f"<pre>{html.escape(json.dumps(study.record(), indent=1))}</pre>",
    }
    write_report(folder, make_page(folder.name, sections.items()), record_probes(cells))
    write_tables(folder, table.columns, [[str(cell) for cell in row] for row in rows])
    write_figures(folder, {"accuracy_by_probe": heat})
