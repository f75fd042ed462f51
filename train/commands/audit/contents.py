"""`morphax audit contents`: lists what a run folder holds of its data, and copies it without examples."""

import argparse
import dataclasses
import json
from pathlib import Path

from train.errors import InputError

HELP = "list what a run folder holds of its data; --redact copies it without examples"
EXAMPLES = """
examples:
  morphax audit contents runs/sentiment_bert                what each file holds of the data
  morphax audit contents runs/sentiment_bert --redact       a copy without examples, to share
  morphax audit contents runs/sentiment_bert --redact --to shared/sentiment
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument("--redact", action="store_true", help="write a copy without examples; the run stays as it is")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="the copy to write (default: RUN-redacted)")
    parser.add_argument("--config", help="the config file that defines the run's own components")


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from train.engine.folder import read_run
    from train.use.contents import list_contents, redact

    if options.to is not None and not options.redact:
        raise InputError("--to names the copy that --redact writes; add --redact, or leave --to out.")
    recorded = read_run(options.folder, options.config)
    contents = list_contents(options.folder, recorded)
    to = options.to or options.folder.with_name(f"{options.folder.name}-redacted")
    left = redact(options.folder, recorded, to) if options.redact else []
    if options.json:
        copy = {"copy": str(to), "left": [dataclasses.asdict(content) for content in left]} if options.redact else {}
        print(json.dumps({"contents": [dataclasses.asdict(content) for content in contents], **copy}))
        return 0
    for content in contents:
        print(f"{content.path:<18} {content.size:>12,}  {content.kind:<9} {content.said}")
    if options.redact:
        print(f"\nwritten: {to}, without")
        for content in left:
            print(f"  {content.path}: {content.said}")
    return 0
