"""`morphax coordinates`: sizes of activations over widths or depths."""

import argparse
import json
from pathlib import Path

from train.commands import make_folder
from train.engine.compilation import enable_compilation_cache
from train.errors import InputError

HELP = "plot how large activations are over widths or depths"
EXAMPLES = """
examples:
  morphax coordinates tiny_lm                               widths 64 to 1024, into runs/tiny_lm_coordinates
  morphax coordinates tiny_lm --by depth --sizes 2,4,8,16   depths in place of widths
  morphax coordinates tiny_lm model.stack.block.mixer="GatedDeltaNet(heads=4)" --seeds 3

Activations that keep their size in muP (model.parametrization=mup) tell that rates tuned on a small model serve a
large one.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("config", help="name of a file in configs/, or the path of your own")
    parser.add_argument(
        "overrides", nargs="*", metavar="path=value", help="settings to change, by their path in the experiment"
    )
    parser.add_argument("--by", choices=("width", "depth"), default="width", help="what grows (default: width)")
    parser.add_argument(
        "--sizes", help="which (default: 64,128,256,512,1024, of depth 2,4,8,16); the smallest is muP's base"
    )
    parser.add_argument("--steps", type=int, default=10, help="training steps at each size (default: 10)")
    parser.add_argument("--seeds", type=int, default=1, help="average over this many seeds (default: 1)")
    parser.add_argument("--to", dest="folder", type=Path, help="folder of the plot (default: runs/CONFIG_coordinates)")


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from train.config import load_config

    experiment, _ = load_config(options.config, options.overrides)
    listed = options.sizes or ("64,128,256,512,1024" if options.by == "width" else "2,4,8,16")
    sizes = sorted({int(size) for size in listed.split(",") if size.strip().isdecimal()})
    if sizes and sizes[-1] > 2**20:
        raise InputError(f"--sizes is {listed}; give sizes of at most {2**20:,}, as 64,128.")
    if len(sizes) < 2 or len(sizes) != len(listed.split(",")) or sizes[0] < 1 or options.steps < 1 or options.seeds < 1:
        raise InputError(
            f"--sizes is {listed}, --steps {options.steps} and --seeds {options.seeds}; give two sizes or more, as"
            " 64,128, and at least 1 step and seed."
        )
    enable_compilation_cache()
    from train.report.console import Console
    from train.study.coordinates import check, make_table, plan_sizes, write

    folder = options.folder or Path("runs") / f"{Path(options.config).stem}_coordinates"
    console = Console()
    plan = plan_sizes(experiment, options.by, sizes, options.steps)
    make_folder(folder)
    curves = check(plan, options.by, options.seeds, console.say)
    written = write(curves, folder)
    if options.json:
        print(json.dumps(written))
    else:
        console.rich.print(make_table(curves))
        console.say(f"{folder}/coordinates.png")
    return 0
