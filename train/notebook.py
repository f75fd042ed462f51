"""Training inside a notebook: an experiment by its config's name, a bar that moves, curves, bands over seeds,
predictions, pictures.
"""

import contextlib
import dataclasses
import html
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rich.console
from matplotlib.figure import Figure

from models.decoding.sampling import Sampler
from models.words import join
from train.config import load_config
from train.cost.traced import parameters
from train.engine.compilation import enable_compilation_cache
from train.engine.folder import Recorded, open_run
from train.engine.prepared import Prepared, prepare
from train.engine.requirements import settle
from train.errors import InputError
from train.experiment import Experiment
from train.page import drawn, from_json, table, to_html
from train.report.console import Bar, Console, format_count, format_duration, format_summary, format_values
from train.sinks.json_lines import read_metrics
from train.spec.overrides import override
from train.spec.parts import components, joined, project
from train.study.check import Report, components_of, required
from train.use import evaluate
from train.use import fit as fitting

COLOURS = ("#4269d0", "#d0542c", "#3a8a4d", "#8a5cb8", "#8c6d31", "#555555")


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece of a page, which a notebook shows when it is the last value of a cell."""

    source: str

    def _repr_html_(self) -> str:
        left = r'<\1\2 style="text-align: left">'  # notebooks set tables to the right
        return re.sub(r"<(t[dh])\b([^>]*)>", left, self.source)


def configured(config: str | Experiment, *overrides: str) -> Experiment:
    """The experiment of a config, by its name in configs/ or a file's path, with overrides `path=value` as the command
    line takes them.

    An override may name classes that the notebook itself defines.  Raises InputError for what does not fit.
    """
    experiment, names = (config, project()) if isinstance(config, Experiment) else load_config(config, [])
    return override(experiment, overrides, joined(names, components(sys.modules["__main__"])))


def fit(
    config: str | Experiment, folder: str | Path, *overrides: str, fresh: bool = False, brief: bool = False
) -> "Run":
    """Trains into a folder, from where the run in it stopped; one that is finished is read and not repeated.

    `fresh` trains anew and keeps a run that the folder holds as FOLDER.1, FOLDER.2 and so on: what a class computes may
    have changed where its fields have not.  `brief` shows the bar alone. Raises InputError for what cannot be used,
    before compiling, and InterruptedRunError when stopped, with the state saved.
    """
    enable_compilation_cache()
    experiment, place = configured(config, *overrides), Path(folder)
    name = config if isinstance(config, str) else "notebook"
    return Run(
        place, fitting.fit(experiment, place, name, Inline(place, brief), fresh), name if name.endswith(".py") else None
    )


def beside(columns: Mapping[str, Mapping[str, str]]) -> Piece:
    """A table with a column for each name and a row for each key."""
    keys = dict.fromkeys(key for column in columns.values() for key in column)
    body = [(key, *(column.get(key, "") for column in columns.values())) for key in keys]
    return Piece(to_html(table(("", *columns), body)))


def check(*given: Any) -> Piece:
    """A table of what the laws find about components: instances, classes by their defaults, calls as text, or files.

    `check(MyMixer(heads=4))`.  Raises InputError for what is no component.
    """
    found: list[Any] = []
    for component in given:
        if isinstance(component, str):
            found += components_of([component], components(sys.modules["__main__"]))
        else:
            found.append(required(component() if isinstance(component, type) else component, str(component)))
    columns: dict[str, dict[str, str]] = {}
    for report in map(Report, found):
        said = {
            one.law: " ".join(filter(None, (one.verdict, one.where and f"({one.where})", one.remedy)))
            for one in report.verdicts
        }
        name = type(report.component).__name__
        columns[name if name not in columns else f"{name} {len(columns) + 1}"] = said
    return beside(columns)


def costs(experiments: Mapping[str, Experiment]) -> Piece:
    """Parameters of several experiments and the operations of a training step, beside each other, counted before
    anything is compiled.

    Raises InputError for one that does not fit its data.
    """
    found: dict[str, dict[str, str]] = {}
    for name, experiment in experiments.items():
        data = experiment.data.open()
        prepared = prepare(settle(experiment, data)[0], data)
        found[name] = {"parameters": f"{parameters(prepared.shapes):,}", "operations a step": f"{prepared.work:,}"}
    return beside(found)


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run: its folder, what summary.json says, and the file of its own components, if one has them.  Shown
    as a table.
    """

    folder: Path
    summary: dict[str, Any]
    config: str | None = None

    def _repr_html_(self) -> str:
        return Piece(to_html(table(("", str(self.folder)), format_summary(self.summary))))._repr_html_()

    def recorded(self) -> Recorded:
        """The experiment as it ran, on one device."""
        return open_run(self.folder, self.config)

    def predict(self, *inputs: str, settings: Sequence[str] = ()) -> list[dict[str, Any]]:
        """An answer to each text or file, with settings changed, such as "data.text=review" for the column of a table.

        What the run cannot read has the reason for an answer, `unanswered`.  Raises InputError if it can read nothing.
        """
        run = self.recorded()
        run = dataclasses.replace(run, experiment=configured(run.experiment, *settings))
        return [answer for _, answer in evaluate.predict(self.folder, run, inputs)]

    def generate(self, prompt: str, tokens: int = 200, temperature: float = 0.8, seed: int = 0) -> str:
        """What a language model makes follow a prompt, with the prompt.  Raises InputError where the run is none."""
        tail = ""
        for tails in evaluate.generate(self.folder, self.recorded(), [prompt], tokens, Sampler(temperature), seed):
            tail = tails[0]
        return prompt + tail

    def curve(self, metric: str, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps (n,) and values (n,) of a metric in training (`train`) or on the test split (`evaluation`)."""
        points = [
            (one["step"], one[f"{part}/{metric}"])
            for one in read_metrics(self.folder)
            if one.get(f"{part}/{metric}") is not None
        ]
        found = np.array(points, np.float64).reshape(-1, 2)
        return found[:, 0], found[:, 1]

    def curves(self, *metrics: str) -> Piece:
        """Metrics over steps, side by side, in training and on the test split.  Raises InputError for one that was not
        measured.
        """
        figure = Figure((5 * max(len(metrics), 1), 3.2), layout="tight")
        for axes, metric in zip(figure.subplots(1, max(len(metrics), 1), squeeze=False).flat, metrics, strict=False):
            lines = {part: self.curve(metric, part) for part in ("train", "evaluation")}
            if not any(len(steps) for steps, _ in lines.values()):
                raise InputError(f"{self.folder} has no metric {metric!r}; it has {join(self._measured())}.")
            for (part, (steps, values)), colour in zip(lines.items(), COLOURS, strict=False):
                if len(steps):
                    axes.plot(
                        steps,
                        values,
                        color=colour,
                        linewidth=1.6,
                        marker="o" if len(steps) < 30 else None,
                        markersize=4,
                        label=part,
                    )
            labelled(axes, metric)
        return Piece(to_html(drawn(figure)))

    def _measured(self) -> list[str]:
        return sorted({name.partition("/")[2] for one in read_metrics(self.folder) for name in one if name != "step"})

    def picture(self, caption: str = "") -> Piece:
        """What the run's review drew on the test split, of which the caption begins so.  Raises InputError where there
        is none.
        """
        file = self.folder / fitting.FINDINGS
        try:
            pieces = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            for said, values in pieces.items():
                if said.startswith(caption):
                    source = f"<figure><figcaption><b>{html.escape(said)}</b></figcaption>{to_html(from_json(values))}"
                    return Piece(f"{source}</figure>")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(f"{file} is damaged ({error}); train the run anew with fresh=True.") from None
        raise InputError(f"{self.folder} has no picture {caption!r}; it has {join(pieces) if pieces else 'none'}.")


def bands(runs: Mapping[str, Sequence[Run]], metric: str = "loss", part: str = "evaluation") -> Piece:
    """A metric over steps for several structures: the mean over each one's seeds, in a band from the lowest to the
    highest seed.
    """
    figure = Figure((7.5, 4), layout="tight")
    axes = figure.subplots()
    for (name, seeds), colour in zip(runs.items(), COLOURS, strict=False):
        steps = seeds[0].curve(metric, part)[0]
        values = np.stack([run.curve(metric, part)[1] for run in seeds])
        low, mean, high = values.min(0), values.mean(0), values.max(0)
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        label = f"{name}: {mean[-1]:.3f} ({low[-1]:.3f} to {high[-1]:.3f})"
        axes.plot(steps, mean, color=colour, linewidth=1.8, marker="o", markersize=4, label=label)
    labelled(axes, f"{metric}, {part}: mean of the seeds, lowest to highest")
    return Piece(to_html(drawn(figure)))


def labelled(axes: Any, title: str) -> None:
    """Gives axes over steps their title and legend."""
    axes.set_title(title, size=10)
    axes.set_xlabel("step")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)


class Inline(Console):
    """Writes to the output of a cell; the bar is one line that changes where IPython shows it, else lines."""

    def __init__(self, folder: Path, brief: bool = False) -> None:
        super().__init__()
        self.rich = rich.console.Console(
            force_jupyter=False, force_terminal=False, highlight=False, soft_wrap=True, quiet=brief
        )
        self.folder, self.each = folder, 0.0

    def plan(self, prepared: Prepared, folder: Path, fresh: Sequence[str] = (), unused: Sequence[str] = ()) -> None:
        """As any console."""
        self.each = prepared.work / prepared.experiment.batch_size
        super().plan(prepared, folder, fresh, unused)

    @contextlib.contextmanager
    def bar(self, start: int, steps: int) -> Iterator[Bar]:
        """The bar for the steps from `start` on."""
        shell = sys.modules.get("IPython")
        if shell is None or shell.get_ipython() is None:
            with super().bar(start, steps) as bar:
                yield bar
        else:
            yield Changing(self, shell.display.display(Piece("compiling ..."), display_id=True), start, steps)

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Nothing: a run shows itself."""


class Changing:
    """A bar in the output of a cell, with the time left and the operations a second."""

    def __init__(self, console: Inline, handle: Any, start: int, steps: int) -> None:
        self.console, self.handle, self.start, self.steps = console, handle, start, steps
        self.began = time.monotonic()

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Moves the bar."""
        words = [f"{self.console.folder.name}: step {step}/{self.steps}", format_values(values)]
        speed = self.console.each * values.get("examples_per_second", 0.0)
        if speed:
            words.append(f"{format_count(speed)}FLOP/s")
        spent = time.monotonic() - self.began
        left = spent / (step - self.start) * (self.steps - step)
        words.append(f"{format_duration(left)} left" if left else f"in {format_duration(spent)}")
        style = "width: 8em; vertical-align: middle"
        self.handle.update(
            Piece(
                f'<progress value="{step}" max="{self.steps}" style="{style}"></progress>'
                f" {html.escape(', '.join(words))}"
            )
        )
