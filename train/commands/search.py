"""`morphax search`: looks for structures that are better than a baseline, and measures its own winner's curse."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from train.commands import add_budget_arguments, make_folder
from train.commands.compare import add_verdict_arguments, read_minutes
from train.commands.scale import read_multiples
from train.engine.compilation import enable_compilation_cache
from train.errors import InputError, convert_errors

if TYPE_CHECKING:
    from train.variants import Search

HELP = "search for better structures by edits of a baseline, and confirm the winners on fresh seeds"
EXAMPLES = """
examples:
  morphax search tiny_lm --list                                      the edits that there are, and nothing more
  morphax search tiny_lm steps=300 --candidates 24 --budget 2h
  morphax search tiny_lm --at model.stack.block.mixer --with my_mixer.py --probe recall
  morphax search search_tiny                                         a search of configs/

A candidate is a list of overrides: parts in the place of others that fit, numbers halved or doubled, other choices.
Each obeys the laws, has the FLOPs of the baseline, and is trained on rungs of growing length, of which each keeps the
best share.  The best of many is partly luck: the winners are compared with the baseline on fresh seeds and on held-out
data that the search never saw, and the report says how much of the gain is left.  The same command continues a search
that was stopped.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("config", help="the baseline, or a search: name of a file in configs/, or your own")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="settings of the baseline and of all")
    parser.add_argument(
        "--at",
        action="append",
        default=[],
        metavar="PATH",
        help="edit what is at this path and below; again for more (default: below model.stack.block)",
    )
    parser.add_argument(
        "--with",
        action="append",
        default=[],
        dest="files",
        metavar="FILE",
        help="a Python file whose components take part; again for more files",
    )
    parser.add_argument("--list", action="store_true", help="list the edits of the baseline, and stop")
    parser.add_argument("--candidates", type=int, help="structures to train (default: 24)")
    parser.add_argument("--population", type=int, help="candidates of a generation (default: 8)")
    parser.add_argument("--rungs", metavar="A,B,1", help="shares of the config's steps (default: 1/9,1/3,1)")
    parser.add_argument("--keep", help="share of the candidates that goes on a rung higher (default: 1/3)")
    parser.add_argument("--probe", help="a task to begin with, such as recall (default: none; see `morphax probe`)")
    parser.add_argument("--probe-steps", type=int, help="steps on the probe (default: 400)")
    parser.add_argument("--seeds", type=int, help="seeds of each trial of the search (default: 1)")
    parser.add_argument("--seed", type=int, help="the seed of the draws (default: 0)")
    parser.add_argument("--winners", type=int, help="candidates to be confirmed (default: 2)")
    parser.add_argument("--most", type=int, help="fresh seeds at most until each winner is decided (default: 20)")
    add_budget_arguments(parser, "flops")
    add_verdict_arguments(parser)
    parser.add_argument("--budget", metavar="TIME", help="search for 60 %% of this: minutes, or 90s, 30min, 2h")
    parser.add_argument("--to", dest="folder", type=Path, help="folder of the search (default: runs/CONFIG_search)")


def read_search(options: argparse.Namespace) -> "Search":
    """The search of the command line, or that of a config's `search()` with what the command line changes.

    Raises InputError or ValueError for what does not fit.
    """
    from train.config import import_config, list_searches
    from train.variants import Search

    make = vars(import_config(options.config, list_searches())).get("search")
    base = make() if make is not None else Search(options.config)
    if not isinstance(base, Search):
        raise InputError(f"search() of {options.config!r} returned a {type(base).__name__}; it must return a Search.")
    settings = {
        "overrides": (*base.overrides, *options.overrides),
        "at": tuple(options.at),
        "candidates": options.candidates,
        "population": options.population,
        "rungs": tuple(read_multiples("--rungs", options.rungs)) if options.rungs is not None else None,
        "keep": read_multiples("--keep", options.keep)[0] if options.keep is not None else None,
        "probe": options.probe,
        "probe_steps": options.probe_steps,
        "seeds": options.seeds,
        "seed": options.seed,
        "winners": options.winners,
        "budget": options.match,
        "free": tuple(options.free),
        "most": options.most,
        "alpha": options.alpha,
        "smallest": options.smallest,
        "minutes": read_minutes(options.budget),
        "files": (*base.files, *options.files),
    }
    return dataclasses.replace(base, **{name: value for name, value in settings.items() if value not in (None, ())})


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    with convert_errors():
        search = read_search(options)
    if options.list:
        return list_edits(search, options.json)
    enable_compilation_cache()
    from train.report.console import Console
    from train.study.candidates import Progress
    from train.study.compare import count_places
    from train.study.live import Live, LiveSearch
    from train.study.rungs import plan_rungs
    from train.study.search import open_search
    from train.study.search_page import write_search_page
    from train.study.search_words import describe_end, describe_plan, describe_time, record_search
    from train.study.workers import open_maker

    folder = options.folder or Path("runs") / f"{Path(options.config).stem}_search"
    console = Console()
    rungs = plan_rungs(search)
    make_folder(folder)
    evolution = open_search(search, folder, rungs, console.say)
    for line in describe_plan(search, rungs, evolution.baseline.cost.flops):
        console.say(line)
    told: list[str] = []

    with open_maker(options.workers, options.ray, console.say) as make:
        with LiveSearch(console, rungs) as searching:

            def look(progress: Progress) -> None:
                if progress.standings and not told:
                    told.append(describe_time(search, rungs, evolution.find_seconds(), count_places(make)))
                    console.say(told[0])
                searching.update(progress)

            standings = evolution.run(make, look)
        with Live(console, search.study) as live:
            gains = evolution.confirm(standings, make, live.update)
    dropped = evolution.count_dropped()
    write_search_page(folder, search, rungs, standings, evolution.candidates, dropped, gains)
    if options.json:
        print(json.dumps(record_search(standings, rungs, evolution.candidates, dropped, gains), indent=1))
        return 0
    for line in describe_end(gains, standings):
        print(line)
    console.say(f"{folder}/report.html has the candidates, {folder}/ledger.jsonl every trial")
    return 0


def list_edits(search: "Search", as_json: bool) -> int:
    """Prints the edits of the baseline, a line for each path; returns the exit code."""
    from train.study.grammar import Grammar

    grammar = Grammar(search.config, search.overrides, search.at, search.files, search.budget, search.free)
    edits = grammar.list_edits()
    if as_json:
        print(json.dumps([str(edit) for edit in edits], indent=1))
        return 0
    for path in dict.fromkeys(edit.path for edit in edits):
        print(f"{path}={' | '.join(edit.value for edit in edits if edit.path == path)}")
    return 0
