"""`morphax compare`: decides between variants of a structure at an equal budget."""

import argparse
import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from train.commands import add_structure_arguments, make_folder
from train.engine.compilation import enable_compilation_cache
from train.errors import InputError, convert_errors

if TYPE_CHECKING:
    from train.study.compare import Entry
    from train.variants import Study

HELP = "say whether variants of a structure are better than it at an equal budget"
EXAMPLES = """
examples:
  morphax compare tiny_lm --vary delta=model.stack.block.mixer="GatedDeltaNet(heads=4)"
  morphax compare tiny_lm --with my_mixer.py --vary mine=model.stack.block.mixer="MyMixer()" --budget 30
  morphax compare compare_feedforward --plan
  morphax compare tiny_lm steps=300 --vary none=model.stack.block.mixer.position=none --seeds 5

Variants train on the same seeds and batches as the baseline, at an equal number of FLOPs.  The verdict may be looked at
after every seed.  The same command continues a study that was stopped.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("config", help="the baseline, or a study: name of a file in configs/, or your own")
    add_structure_arguments(parser, "flops")
    parser.add_argument(
        "--tune", metavar="path=A,B,...", help="values that the baseline and each variant try (default: none)"
    )
    add_scale_argument(parser)
    parser.add_argument(
        "--plan", action="store_true", help="print costs, the number of trials and their time, and train nothing"
    )
    add_verdict_arguments(parser)
    parser.add_argument("--seeds", type=int, help="this many seeds (default: until each variant is decided)")
    parser.add_argument("--most", type=int, help="seeds at most until each is decided (default: 20)")
    parser.add_argument(
        "--until", choices=("decided",), help="add seeds until each variant is decided: what it does without --seeds"
    )
    parser.add_argument("--budget", metavar="TIME", help="begin no seed after so long: minutes, or 90s, 30min, 2h")
    parser.add_argument("--to", dest="folder", type=Path, help="folder of the study (default: runs/CONFIG_study)")


def add_verdict_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the match and of the verdict."""
    parser.add_argument(
        "--free",
        action="append",
        default=[],
        metavar="path",
        help="a number over the model's width that the match may change (default: the widths of feedforwards)",
    )
    parser.add_argument("--alpha", type=float, help="the chance of a false verdict (default: 0.05)")
    parser.add_argument("--smallest", type=float, help="smallest difference of interest, of the loss (default: 0.005)")


def add_scale_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the choice of a larger scale that a study offers."""
    parser.add_argument(
        "--scale", metavar="NAME", help="the same study larger, such as colab or pod, where it offers one"
    )


def name_folder(options: argparse.Namespace, kind: str) -> Path:
    """Names the folder of a study: runs/CONFIG_KIND, or runs/CONFIG_SCALE_KIND."""
    return Path("runs") / "_".join(filter(None, (Path(options.config).stem, options.scale, kind)))


def read_variants(settings: list[str]) -> dict[str, tuple[str, ...]]:
    """Parses NAME=path=value into overrides by the name of their variant.  Raises InputError for another form."""
    variants: dict[str, tuple[str, ...]] = {}
    for text in settings:
        name, _, setting = text.partition("=")
        if not re.fullmatch(r"[A-Za-z][\w-]*", name) or "=" not in setting:
            raise InputError(f"--vary is {text!r}; give NAME=path=value, such as wide=model.embed.width=256.")
        variants[name] = (*variants.get(name, ()), setting)
    return variants


def read_minutes(text: str | None) -> float | None:
    """Parses a time, such as 30, 30min, 90s or 2h, into minutes.  Raises InputError for another form."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|min|h)?", text.strip())
    if match is None or not float(match[1]):
        raise InputError(f"--budget is {text!r}; give a time, such as 30min, 90s or 2h.")
    return float(match[1]) * {"s": 1 / 60, "min": 1.0, "h": 60.0}[match[2] or "min"]


def read_grid(text: str | None) -> tuple[str, ...]:
    """Parses a grid, path=A,B,C, into overrides; commas inside of parentheses do not separate values."""
    if text is None:
        return ()
    path, equals, values = text.partition("=")
    split = re.split(r",(?![^(\[]*[)\]])", values)
    if not equals or not all(split) or len(split) < 2:
        raise InputError(f"--tune is {text!r}; give path=A,B,..., such as optimizer.rate.peak=1e-3,2e-3,4e-3.")
    return tuple(f"{path}={value}" for value in split)


def read_study(options: argparse.Namespace) -> "Study":
    """The study of the command line, or that of a config's `study()` with what the command line changes.

    Raises InputError or ValueError for what does not fit.
    """
    from train.config import import_config, list_studies
    from train.variants import Study

    variants, grid = read_variants(options.vary), read_grid(options.tune)
    if options.until is not None and options.seeds is not None:
        raise InputError(f"--until decided and --seeds {options.seeds} contradict each other; give one of them.")
    make = vars(import_config(options.config, list_studies())).get("study")
    base = make() if make is not None else None
    if base is not None and not isinstance(base, Study):
        raise InputError(f"study() of {options.config!r} returned a {type(base).__name__}; it must return a Study.")
    before = base or Study(options.config, variants=variants)
    before = before.enlarge(options.scale) if options.scale else before
    settings = {
        "variants": {**before.variants, **variants},
        "overrides": (*before.overrides, *options.overrides),
        "free": tuple(options.free),
        "grid": grid,
        "budget": options.match,
        "seeds": options.seeds,
        "most": options.most,
        "alpha": options.alpha,
        "smallest": options.smallest,
        "minutes": read_minutes(options.budget),
        "files": (*before.files, *options.files),
    }
    return dataclasses.replace(before, **{name: value for name, value in settings.items() if value not in (None, ())})


def _print_plan(study: "Study", entries: "Sequence[Entry]", options: argparse.Namespace) -> None:
    """Prints what the study would cost."""
    from train.report.console import print_table
    from train.study.outline import describe_trials, make_cost_table, measure_entries, record_plan
    from train.study.workers import count_workers

    entries, seconds = measure_entries(study, entries)
    workers = count_workers(options.workers)
    if options.json:
        print(json.dumps(record_plan(study, entries, seconds, workers), indent=1))
    else:
        print_table(make_cost_table(entries, seconds))
        print(describe_trials(study, entries, seconds, workers))


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    with convert_errors():
        study = read_study(options)
    enable_compilation_cache()
    from train.report.console import Console
    from train.study.compare import Comparison, enter
    from train.study.live import Live
    from train.study.page import write_page
    from train.study.power import record_results
    from train.study.words import describe
    from train.study.workers import open_maker
    from train.variants import BASELINE

    folder = options.folder or name_folder(options, "study")
    console = Console()
    entries = enter(study, console.say)
    if options.plan:
        _print_plan(study, entries, options)
        return 0
    make_folder(folder)
    comparison = Comparison(study, folder, entries)
    for entry in entries:
        if entry.moved:
            console.say(f"{entry.name}: {', '.join(entry.moved)} so that its {study.budget} equal the baseline's")
    with Live(console, study) as live, open_maker(options.workers, options.ray, console.say) as make:
        results = comparison.run(make, live.update)
    write_page(folder, study, results)
    if options.json:
        print(json.dumps(record_results(study, results), indent=1))
    else:
        for result in results:
            if result.entry.name != BASELINE:
                print(describe(result))
            elif result.tuned is not None and result.tuned.end is not None:
                print(f"{BASELINE}: {result.tuned.describe()}")
        console.say(f"{folder}/report.html has the curves, {folder}/ledger.jsonl every trial")
    return 0
