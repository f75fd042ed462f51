"""`morphax data`: lists, prepares and shows data sets."""

import argparse
import json

from train.errors import InputError

HELP = "list, prepare or look at data sets"
EXAMPLES = """
examples:
  morphax data list                                         this project's data sets
  morphax data prepare movie_snippets/labels                fetch and prepare one, once
  morphax data show movie_snippets/labels                   its splits, features, licence and first example
  morphax data show my_set --config my_config.py            one that your own file defines
  morphax data show hf:OWNER/NAME                           one that the local cache of Hugging Face's `datasets` has
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("action", choices=("list", "prepare", "show"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="data sets, as name or name/configuration")
    parser.add_argument("--config", help="the config file that defines data sets of its own")


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from models.words import join
    from train.data.sources import describe_dataset, open_dataset
    from train.data.sources.tfds import list_own

    if options.config:
        from train.config import load_config

        load_config(options.config, [])
    if options.action == "list" and options.names:
        raise InputError(
            f"morphax data list takes no name ({join(options.names)}); see one by `morphax data show"
            f" {options.names[0]}`."
        )
    if options.action == "list":
        print(json.dumps({"names": list_own()}) if options.json else "\n".join(list_own()))
        return 0
    if not options.names:
        raise InputError(f"morphax data {options.action} needs a name; see `morphax data list`.")
    rows: list[dict[str, object]] = []
    for name in options.names:
        described = describe_dataset(name)
        row = {"name": name, **{key: described[key] for key in ("folder", "splits", "features", "licence")}}
        if options.action == "show":
            example = open_dataset(name, next(iter(described["splits"]))).examples[0]
            row["first"] = {key: format_value(value) for key, value in example.items()}
        rows.append(row)
    if options.json:
        print(json.dumps({"data": rows}))
        return 0
    for row in rows:
        for key, value in row.items():
            print(f"{key:<10}{format_value(value)}")
    return 0


def format_value(value: object) -> str:
    """Formats a value of an example: text as it is, large arrays by dtype, shape and range."""
    import numpy as np

    if isinstance(value, str | bytes):
        return value if isinstance(value, str) else value.decode("utf-8", errors="replace")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {format_value(inner)}" for key, inner in value.items()) + "}"
    array = np.asarray(value)
    if array.size <= 8:
        return np.array2string(array, precision=6, separator=", ")
    if array.dtype.kind not in "biuf":
        return f"{array.size} values, the first {format_value(array.flat[0])}"
    return f"{array.dtype} {array.shape} from {array.min():.6g} to {array.max():.6g}"
