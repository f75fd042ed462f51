"""`morphax check`: tests the user's components by the laws."""

import argparse
import json

from train.errors import InputError

HELP = "test components of your own by the laws that those of the project obey"
EXAMPLES = """
examples:
  morphax check my_mixer.py                          every component class that the file defines, by its defaults
  morphax check my_mixer.py "MyMixer(heads=4)"       one, with settings
  morphax check "GatedDeltaNet(heads=4)"             one of the project's
  morphax check my_mixer.py --catalogue              parameters, operations and what decoding keeps, as in the catalogue

The exit code is 1 if a law is broken.  Properties that a class may declare are listed by `morphax check --properties`.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument(
        "targets", nargs="*", metavar="FILE or CALL", help='a Python file, and calls such as "MyMixer(heads=4)"'
    )
    parser.add_argument(
        "--law", action="append", default=[], metavar="WORDS", help="only laws whose name has these words"
    )
    parser.add_argument(
        "--catalogue", action="store_true", help="numbers of models/README.md for the components, nothing is tested"
    )
    parser.add_argument("--properties", action="store_true", help="list the properties that a class may declare")


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    if options.properties:
        from models.laws import declared

        print((declared.__doc__ or "").strip())
        return 0
    if not options.targets:
        raise InputError('Nothing to check was given; give a Python file, or a call such as "MyMixer(heads=4)".')
    from train.study.check import Report, make_components, prepare, print_costs

    prepare()
    tested = make_components(options.targets)
    if options.catalogue:
        return print_costs(tested, options.json)
    reports: list[Report] = []
    for component in tested:
        report = Report(component, options.law)
        if not options.json:
            report.show()
        reports.append(report)
    if options.json:
        print(json.dumps([report.data() for report in reports], indent=1))
    return int(any(report.broken for report in reports))
