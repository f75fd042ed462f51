"""`morphax eval`: evaluates a trained run on its test split, or on the user's data."""

import argparse
import json
import sys
from pathlib import Path

from train.commands import add_data_arguments, add_run_arguments, point_to_data
from train.engine.compilation import enable_compilation_cache

HELP = "measure a trained run on its test split"
EXAMPLES = """
examples:
  morphax eval runs/sentiment_bert                          the last checkpoint on the test split
  morphax eval runs/sentiment_bert --best                   the checkpoint with the best metric
  morphax eval runs/sentiment_bert --data reviews.csv       on all of your own file, or folder
  morphax eval runs/own_boxes --data val.json data.test_images=val2017     a COCO file with its pictures
  morphax eval runs/sentiment_bert evaluation.batch_size=256
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="settings to change, such as data.split")
    add_data_arguments(parser)
    add_run_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    enable_compilation_cache()
    from train.engine.folder import open_run
    from train.engine.provenance import describe_changes, fingerprint_data
    from train.report.console import list_remarks, list_results
    from train.use.evaluate import evaluate

    run = open_run(options.folder, options.config)
    changed = point_to_data(run, options.data, options.overrides)
    experiment = changed.experiment
    result = evaluate(options.folder, changed, options.best)
    if experiment.data == run.experiment.data and (
        other := describe_changes(run.said.get("data", {}), fingerprint_data(experiment))
    ):
        result["changed"] = other
        said = f"The data is not what {options.folder} was trained with ({other}): this measures the data as it is now."
        print(said, file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps(result))
        return 0
    print(f"{options.folder}, step {result['step']}")
    for name, value, without in list_results(result):
        print(f"{name:<28}{value}{without and f'  ({without})'}")
    for kind, text in list_remarks(result):
        print(f"{kind:<28}{text}")
    return 0
