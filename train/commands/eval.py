"""`morphax eval`: evaluates a trained run on its test split, or on the user's data."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from train.commands import add_run_arguments
from train.data.origins import ReadsFiles
from train.engine.compilation import enable_compilation_cache
from train.errors import InputError

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
    parser.add_argument(
        "--data", metavar="PATH", help="your own file or folder: short for data.path=PATH data.test=PATH"
    )
    add_run_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    enable_compilation_cache()
    from train.engine.folder import open_run
    from train.engine.provenance import describe_changes, fingerprint_data
    from train.report.console import list_remarks, list_results
    from train.spec.overrides import override
    from train.spec.parts import list_project_parts
    from train.use.evaluate import evaluate

    run = open_run(options.folder, options.config)
    experiment = run.experiment
    if options.data is not None and not isinstance(experiment.data, ReadsFiles):
        raise InputError(f"--data is {options.data} and {type(experiment.data).__name__} reads no files; leave it out.")
    paths = [text for text in options.overrides if text.partition("=")[0] in ("data.path", "data.test")]
    if options.data is not None and paths:
        raise InputError(
            f"--data is {options.data}, which is short for data.path and data.test, and {paths[0]} is given too;"
            " leave one out."
        )
    shorthand = [
        f"data.{name}={options.data}"
        for name in ("path", "test")
        if options.data is not None and hasattr(experiment.data, name)
    ]
    experiment = override(experiment, [*shorthand, *options.overrides], list_project_parts())
    result = evaluate(options.folder, dataclasses.replace(run, experiment=experiment), options.best)
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
