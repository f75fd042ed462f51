"""Studies of a folder as tables: what was compared, and every trial."""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from train.charts import to_csv
from train.errors import InputError
from train.study.ledger import NAME, read_ledger

TRIAL_COLUMNS = ("study", "variant", "seed", "part", "loss", "accuracy", "seconds", "memory", "error", "overrides")


@dataclasses.dataclass(frozen=True)
class Trial:
    """A line of a ledger: a structure that was trained from a seed."""

    study: str
    variant: str
    seed: int
    part: str
    loss: float
    accuracy: float | None
    seconds: float | None
    memory: int | None
    error: str | None
    overrides: tuple[str, ...]

    @property
    def cells(self) -> tuple[str, ...]:
        """The trial as a row of a table."""
        loss = "" if self.error is not None else f"{self.loss:.6g}"
        numbers = ("" if value is None else f"{value:.4g}" for value in (self.accuracy, self.seconds, self.memory))
        error, overrides = self.error or "", " ".join(self.overrides)
        return self.study, self.variant, str(self.seed), self.part, loss, *numbers, error, overrides


@dataclasses.dataclass(frozen=True)
class Summary:
    """A study or a campaign in a row: where it is, what it is of, how many trials it has, and what came out."""

    study: str
    kind: str
    config: str
    trials: int
    failed: int
    outcome: str

    @property
    def cells(self) -> tuple[str, ...]:
        """The study as a row of a table."""
        return self.study, self.kind, self.config, str(self.trials), str(self.failed), self.outcome


SUMMARY_COLUMNS = ("study", "kind", "config", "trials", "failed", "outcome")


def find_ledgers(folders: Sequence[Path]) -> list[Path]:
    """Finds the ledgers in folders and below them.  Raises InputError for a folder that does not exist or has none."""
    ledgers: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}; give the folder of a study, or one that holds some.")
        here = sorted(folder.rglob(NAME))
        if not here:
            raise InputError(f"{folder} holds no study; `morphax compare` makes one.")
        ledgers += here
    return list(dict.fromkeys(ledgers))


def read_trials(path: Path) -> Iterator[Trial]:
    """Reads the trials of a ledger."""
    for line in read_ledger(path):
        if line.get("kind") == "trial":
            loss = math.inf if line["loss"] is None else line["loss"]
            yield Trial(
                str(path.parent),
                line["variant"],
                line["seed"],
                line["part"],
                loss,
                line.get("accuracy"),
                line["seconds"],
                line.get("memory"),
                line["error"],
                tuple(line["overrides"]),
            )


def summarize(path: Path) -> Summary:
    """Summarizes a ledger: counts of trials, and the mean difference of each variant from the baseline by seed."""
    lines = list(read_ledger(path))
    head = lines[0] if lines else {}
    kind, config = str(head.get("kind", "empty")), str(head.get("config", ""))
    if kind == "campaign":
        stages = [line["stage"] for line in lines[1:] if line.get("kind") == "proposal"]
        counts = [f"{stages.count(stage)} {stage}" for stage in dict.fromkeys(stages)]
        return Summary(str(path.parent), kind, config, len(stages), 0, ", ".join(counts))
    trials = list(read_trials(path))
    losses: dict[str, dict[int, float]] = {}
    for trial in trials:
        if trial.part == "verdict" and trial.error is None:
            losses.setdefault(trial.variant, {})[trial.seed] = trial.loss
    base = losses.pop("baseline", {})
    outcomes: list[str] = []
    for variant, by_seed in losses.items():
        both = [by_seed[seed] / base[seed] - 1 for seed in by_seed if seed in base]
        if both:
            outcomes.append(f"{variant} {sum(both) / len(both):+.2%} over {len(both)} seeds")
    failed = sum(trial.error is not None for trial in trials)
    return Summary(str(path.parent), kind, config, len(trials), failed, "; ".join(outcomes))


def write_trials(trials: Sequence[Trial]) -> str:
    """Writes trials as CSV."""
    return to_csv(TRIAL_COLUMNS, [trial.cells for trial in trials])


def to_markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Converts a table to Markdown."""
    lines = [list(columns), ["---"] * len(columns), *(list(row) for row in rows)]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def to_latex(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Converts a table to LaTeX with the rules of booktabs; columns of numbers are aligned to the right."""
    sides = "".join("r" if _holds_numbers([row[column] for row in rows]) else "l" for column in range(len(columns)))
    head, *body = (" & ".join(map(_escape_latex, cells)) + r" \\" for cells in (columns, *rows))
    lines = [rf"\begin{{tabular}}{{{sides}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(["% \\usepackage{booktabs}", *lines]) + "\n"


def _holds_numbers(cells: Sequence[str]) -> bool:
    return any(cells) and all(not cell or cell.replace(".", "", 1).isdigit() for cell in cells)


def _escape_latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    text = "".join(special.get(letter, "\\" + letter if letter in "&%$#_{}" else letter) for letter in text)
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", text)  # minus, not a hyphen
