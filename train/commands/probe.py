"""`morphax probe`: what a structure and its variants can do, by small tasks of one ability each."""

import argparse
import json
from pathlib import Path

from train.commands import add_structure_arguments, make_folder
from train.commands.compare import read_study
from train.engine.compilation import enable_compilation_cache
from train.errors import InputError, convert_errors

HELP = "test what a structure can do: recall, copying, induction, state tracking, longer rows"
EXAMPLES = """
examples:
  morphax probe recall
  morphax probe recall --vary delta=model.stack.block.mixer="GatedDeltaNet(heads=2)" --probes recall,parity,needle
  morphax probe recall --with my_mixer.py --vary mine=model.stack.block.mixer="MyMixer()"
  morphax probe --list                       what there is to ask

Structures are those of the config and its variants; data and objective are the probe's.  The same command continues
what was stopped.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("config", nargs="?", help="the baseline: name of a file in configs/, or your own")
    add_structure_arguments(parser, "none")
    parser.add_argument("--probes", metavar="A,B,...", help="which (default: all)")
    parser.add_argument("--list", action="store_true", help="list the probes")
    parser.add_argument("--steps", type=int, default=400, help="steps of training (default: 400)")
    parser.add_argument("--rate", help="the peak of the learning rate (default: the config's)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each structure (default: 3)")
    parser.add_argument("--to", dest="folder", type=Path, help="folder of the probes (default: runs/CONFIG_probe)")
    parser.set_defaults(tune=None, free=[], most=None, alpha=None, smallest=None, budget=None, until=None, scale=None)


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from train.study.probes import PROBES

    if options.list:
        for name, probe in PROBES.items():
            print(f"{name:<18}{probe.asks}; guessing is right {probe.chance:.1%} of the time: {probe.data}")
        return 0
    if options.config is None:
        raise InputError("No config was given; give the name of one, such as recall, or --list.")
    options.match = options.match or "none"
    with convert_errors():
        study = read_study(options)
    names = [name.strip() for name in options.probes.split(",")] if options.probes else list(PROBES)
    if options.steps < 1:
        raise InputError(f"--steps is {options.steps}; give 1 or more.")
    enable_compilation_cache()
    from train.report.console import Console, print_table
    from train.study.compare import Result
    from train.study.probes import (
        compute_cell,
        format_cell,
        gather_cells,
        make_heat_table,
        plan_probes,
        record_probes,
        run_probes,
        write_probe_page,
    )
    from train.study.workers import open_maker

    folder = options.folder or Path("runs") / f"{Path(options.config).stem}_probe"
    console = Console()
    studies = plan_probes(study, names, options.steps, options.rate)
    make_folder(folder)
    told: set[tuple[str, int]] = set()

    def look(name: str, results: list[Result]) -> None:
        seeds = min((len(result.losses) for result in results if result.entry.out is None), default=0)
        if seeds and (name, seeds) not in told:
            told.add((name, seeds))
            words = [f"{result.entry.name} {format_cell(compute_cell(result))}" for result in results]
            console.say(f"{name}, seed {seeds}: {', '.join(words)}")

    with open_maker(options.workers, options.ray, console.say) as make:
        cells = gather_cells(run_probes(studies, folder, make, look))
    write_probe_page(folder, study, cells)
    if options.json:
        print(json.dumps(record_probes(cells)))
        return 0
    print_table(make_heat_table(cells))
    console.say(f"{folder}/report.html has the heat map")
    return 0
