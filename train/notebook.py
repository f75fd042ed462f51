"""Training inside a notebook: an experiment by its config's name, a progress bar, curves, predictions, pictures."""

import contextlib
import dataclasses
import html
import itertools
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import flax.linen as nn
import numpy as np
import rich.console

from models.decoding.sampling import Sampler
from models.words import join
from train import page
from train.charts import Plot, Series
from train.config import MAIN, load_config
from train.cost.traced import count_parameters
from train.engine.compilation import enable_compilation_cache
from train.engine.folder import Recorded, open_run
from train.engine.prepared import Prepared, prepare
from train.engine.requirements import settle
from train.errors import InputError
from train.experiment import Experiment
from train.page import Panels, add_caption, from_json, make_table, to_html
from train.report.console import Bar, Console, format_count, format_duration, format_summary, format_values
from train.report.style import DARK, format_properties
from train.sinks.json_lines import get_step, read_metrics
from train.spec.overrides import override
from train.spec.parts import list_components, list_project_parts, merge_names
from train.study.check import Report, make_components, require_component
from train.study.compare import Comparison, Result, enter
from train.study.grouped import Grouped
from train.study.page import draw, write_page
from train.study.power import describe_plans
from train.study.trial import load_trainer
from train.study.words import describe, make_columns, make_rows
from train.summary import Summary
from train.use import evaluate
from train.use import fit as fitting
from train.variants import BASELINE, Study

MARKED = 30  # fewer points than this are marked each
# how Jupyter, Colab and VS Code say that a notebook is dark; the colours of charts by default are those of a light one
DARKENED = ('[data-jp-theme-light="false"]', 'html[theme="dark"]', "body.vscode-dark")
THEMES = f"{', '.join(f'{where} .morphax' for where in DARKENED)} {{ {format_properties(DARK)} }}"


@dataclasses.dataclass(frozen=True)
class Piece:
    """HTML that a notebook shows if it is the last value of a cell."""

    source: str

    def _repr_html_(self) -> str:
        left = r'<\1\2 style="text-align: left">'  # notebooks align tables to the right
        return re.sub(r"<(t[dh])\b([^>]*)>", left, self.source)


def configured(config: str | Experiment, *overrides: str) -> Experiment:
    """Loads the experiment of a config, by name or by a file's path, with overrides `path=value` of the command line.

    An override may name classes that the notebook itself defines.  Raises InputError if the config or an override is
    unusable.
    """
    experiment, names = (config, list_project_parts()) if isinstance(config, Experiment) else load_config(config, [])
    return override(experiment, overrides, merge_names(names, list_components(sys.modules["__main__"])))


def fit(
    config: str | Experiment, folder: str | Path, *overrides: str, fresh: bool = False, brief: bool = False
) -> "Run":
    """Trains into a folder, continuing the run that it holds; a finished run is read, not trained again.

    `fresh` trains anew, and keeps a run that the folder holds as FOLDER.1, FOLDER.2 and so on; use it if a class
    computes something else than before by the same fields.  `brief` shows only the bar.  Raises InputError for
    unusable input, before compiling, and InterruptedRunError if it is stopped, with the state saved.
    """
    enable_compilation_cache()
    experiment = configured(config, *overrides)
    path = Path(folder)
    name = config if isinstance(config, str) else "notebook"
    summary = fitting.fit(experiment, path, name, Inline(path, brief), fresh)
    return Run(path, summary, name if name.endswith(".py") else None)


def beside(columns: Mapping[str, Mapping[str, str]]) -> Piece:
    """Shows a table with a column for each name and a row for each key."""
    keys = dict.fromkeys(key for column in columns.values() for key in column)
    body = [(key, *(column.get(key, "") for column in columns.values())) for key in keys]
    return Piece(to_html(make_table(("", *columns), body)))


def check(*targets: object) -> Piece:
    """Tests components by the laws, as a table: instances, classes by their defaults, calls as text, or files.

    `check(MyMixer(heads=4))`.  Raises InputError if a target is no component.
    """
    tested: list[nn.Module] = []
    for component in targets:
        if isinstance(component, str):
            tested += make_components([component], list_components(sys.modules["__main__"]))
        else:
            tested.append(require_component(component() if isinstance(component, type) else component, str(component)))
    columns: dict[str, dict[str, str]] = {}
    for report in map(Report, tested):
        said = {
            each.law: " ".join(filter(None, (each.verdict, each.where and f"({each.where})", each.remedy)))
            for each in report.verdicts
        }
        name = type(report.component).__name__
        columns[name if name not in columns else f"{name} {len(columns) + 1}"] = said
    return beside(columns)


def costs(experiments: Mapping[str, Experiment]) -> Piece:
    """Compares parameters and FLOPs a training step of several experiments, without compiling any.

    Raises InputError if one does not fit its data.
    """
    columns: dict[str, dict[str, str]] = {}
    for name, experiment in experiments.items():
        data = experiment.data.open()
        prepared = prepare(settle(experiment, data)[0], data)
        columns[name] = {
            "parameters": f"{count_parameters(prepared.shapes):,}",
            "FLOPs a step": f"{prepared.work:,}",
        }
    return beside(columns)


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, shown as a table: its folder, its summary, and the file of its own components, if any."""

    folder: Path
    summary: Summary
    config: str | None = None

    def _repr_html_(self) -> str:
        return Piece(to_html(make_table(("", str(self.folder)), format_summary(self.summary))))._repr_html_()

    def recorded(self) -> Recorded:
        """Reads the run: its experiment, on one device, and its classes."""
        return open_run(self.folder, self.config)

    def predict(self, *inputs: str, settings: Sequence[str] = ()) -> list[Mapping[str, object]]:
        """Answers each text or file; `settings` are overrides, such as "data.text=review" for the column of a table.

        An input that the run cannot read has the answer `unanswered`, the reason.  Raises InputError if it can read
        none.
        """
        run = self.recorded()
        run = dataclasses.replace(run, experiment=configured(run.experiment, *settings))
        return [answer for _, answer in evaluate.predict(self.folder, run, inputs)]

    def generate(self, prompt: str, tokens: int = 200, temperature: float = 0.8, seed: int = 0) -> str:
        """Continues a prompt by a language model; returns both.  Raises InputError if the run is of another model."""
        tail = ""
        for tails in evaluate.generate(self.folder, self.recorded(), [prompt], tokens, Sampler(temperature), seed):
            tail = tails[0]
        return prompt + tail

    def curve(self, metric: str, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Reads steps (n,) and values (n,) of a metric in training (`train`) or on the test split (`evaluation`)."""
        name = f"{part}/{metric}"
        points = [(get_step(row), row[name]) for row in read_metrics(self.folder) if row.get(name) is not None]
        array = np.array(points, np.float64).reshape(-1, 2)
        return array[:, 0], array[:, 1]

    def curves(self, *metrics: str) -> Piece:
        """Plots metrics over steps, side by side, in training and on the test split.

        Raises InputError for a metric that was not measured.
        """
        plots: list[Plot] = []
        for metric in metrics:
            lines = {part: self.curve(metric, part) for part in ("train", "evaluation")}
            if not any(len(steps) for steps, _ in lines.values()):
                raise InputError(f"{self.folder} has no metric {metric!r}; it has {join(self._measured())}.")
            series = (
                Series(part, make_points(steps, values), "marked" if len(steps) < MARKED else "line", colour)
                for colour, (part, (steps, values)) in enumerate(lines.items())
                if len(steps)
            )
            plots.append(Plot(tuple(series), "step", title=metric))
        return show_figure(f"Metrics of {self.folder} by step", Panels(tuple(plots)))

    def _measured(self) -> list[str]:
        return sorted({name.partition("/")[2] for row in read_metrics(self.folder) for name in row if name != "step"})

    def picture(self, caption: str = "") -> Piece:
        """Shows the first picture of the run's review whose caption begins with `caption`.

        Raises InputError if there is none.
        """
        file = self.folder / fitting.FINDINGS
        try:
            pieces = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            for said, values in pieces.items():
                if said.startswith(caption):
                    return show_figure(said, from_json(values))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(f"{file} is damaged ({error}); train the run anew with fresh=True.") from None
        raise InputError(f"{self.folder} has no picture {caption!r}; it has {join(pieces) if pieces else 'none'}.")


def bands(runs: Mapping[str, Sequence[Run]], metric: str = "loss", part: str = "evaluation") -> Piece:
    """Plots a metric over steps for several structures: the mean over each one's seeds, in a band of their range."""
    series: list[Series] = []
    for colour, (name, seeds) in enumerate(runs.items()):
        steps = seeds[0].curve(metric, part)[0]
        values = np.stack([run.curve(metric, part)[1] for run in seeds])
        low, mean, high = values.min(0), values.mean(0), values.max(0)
        label = f"{name}: {mean[-1]:.3f} ({low[-1]:.3f} to {high[-1]:.3f})"
        series.append(Series("", make_points(steps, low, high), "band", colour))
        series.append(Series(label, make_points(steps, mean), "marked", colour))
    caption = f"{metric}, {part}: mean of the seeds, lowest to highest"
    return show_figure(caption, Plot(tuple(series), "step", metric))


def compare(study: Study, folder: str | Path, fresh: bool = False) -> "Compared":
    """Carries out a study in a folder, in this process; what its ledger holds is not done again.

    Overrides may name classes that the notebook itself defines.  `fresh` keeps what the folder holds as FOLDER.1,
    FOLDER.2 and so on, and begins anew; use it after an edit of a class.  Raises InputError if the baseline cannot be
    trained, and if the folder holds another study or one of another class of the same name.
    """
    enable_compilation_cache()
    load_trainer.cache_clear()  # a class of the notebook may have been defined anew
    path, study = Path(folder), dataclasses.replace(study, files=(*study.files, MAIN))
    if fresh and path.exists():
        others = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
        path.rename(next(other for other in others if not other.exists()))
    shell = sys.modules.get("IPython")
    shown: Handle | None = None
    if shell is not None and shell.get_ipython() is not None:
        shown = shell.display.display(Piece("checking structures ..."), display_id=True)
    entries = enter(study, Console().say)
    path.mkdir(parents=True, exist_ok=True)

    def look(results: Sequence[Result], done: int, planned: int) -> None:
        if shown is not None:
            said = f"{done} trials" if results else f"tuning: {done} of {planned} trials"
            table = to_html(make_table(make_columns(results), make_rows(results))) if results else ""
            shown.update(Piece(f"<p>{said}</p>{table}"))

    results = Comparison(study, path, entries).run(Grouped(), look)
    write_page(path, study, results)
    if shown is not None:
        shown.update(Piece(f"<p>finished: {html.escape(str(path))}/report.html, and its figures beside it</p>"))
    return Compared(path, study, tuple(results))


@dataclasses.dataclass(frozen=True)
class Compared:
    """A study that was carried out, shown as its verdicts, its table and its figures."""

    folder: Path
    study: Study
    results: tuple[Result, ...]

    def _repr_html_(self) -> str:
        variants = [result for result in self.results if result.entry.name != BASELINE]
        said = "".join(f"<p><strong>{html.escape(describe(result))}</strong></p>" for result in variants)
        planned = "".join(f"<p>{html.escape(text)}</p>" for text in describe_plans(self.study, self.results))
        table = to_html(make_table(make_columns(self.results), make_rows(self.results)))
        figures = "".join(add_caption(drawing.caption, drawing.plot) for drawing in draw(self.study, self.results))
        grid = f'<div style="{page.PANELS}">{figures}</div>'
        return Piece(f'<div class="morphax"><style>{THEMES}</style>{said}{table}{planned}{grid}</div>')._repr_html_()


def make_points(*columns: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """Makes the points of a chart from columns (n,): steps and values, or steps, lows and highs."""
    return tuple(zip(*(column.tolist() for column in columns), strict=True))


def show_figure(caption: str, piece: page.Piece) -> Piece:
    """Shows a piece of a page, light or dark as the notebook is, with its caption and a link to its numbers as CSV."""
    return Piece(f'<div class="morphax"><style>{THEMES}</style>{add_caption(caption, piece)}</div>')


class Inline(Console):
    """Writes to the output of a cell; the bar is a line that is updated in place in IPython, otherwise lines."""

    def __init__(self, folder: Path, brief: bool = False) -> None:
        super().__init__()
        self.rich = rich.console.Console(
            force_jupyter=False, force_terminal=False, highlight=False, soft_wrap=True, quiet=brief
        )
        self.folder = folder
        self.example_work = 0.0

    def show_plan(
        self, prepared: Prepared, folder: Path, fresh: Sequence[str] = (), unused: Sequence[str] = ()
    ) -> None:
        """Shows the five steps of this run, and keeps the FLOPs of an example."""
        self.example_work = prepared.work / prepared.experiment.batch_size
        super().show_plan(prepared, folder, fresh, unused)

    @contextlib.contextmanager
    def show_bar(self, start: int, steps: int) -> Iterator[Bar]:
        """Shows a progress bar for the steps from `start` on."""
        shell = sys.modules.get("IPython")
        if shell is None or shell.get_ipython() is None:
            with super().show_bar(start, steps) as bar:
                yield bar
        else:
            yield Changing(self, shell.display.display(Piece("compiling ..."), display_id=True), start, steps)

    def show_summary(self, summary: Summary) -> None:
        """Shows nothing: the cell shows the Run."""


class Handle(Protocol):
    """An output of IPython that is updated in place."""

    def update(self, obj: object, /) -> None: ...


class Changing:
    """A progress bar in the output of a cell, with the time left and the FLOP/s."""

    def __init__(self, console: Inline, handle: Handle, start: int, steps: int) -> None:
        self.console, self.handle, self.start, self.steps = console, handle, start, steps
        self.began = time.monotonic()

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Moves the bar."""
        words = [f"{self.console.folder.name}: step {step}/{self.steps}", format_values(values)]
        speed = self.console.example_work * values.get("examples_per_second", 0.0)
        if speed:
            words.append(f"{format_count(speed, ' ')}FLOP/s")
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
