"""`morphax explain`: explains a trained run's answer to one question on a page."""

import argparse
import hashlib
import json
import re
from pathlib import Path

from train.commands import add_run_arguments, read_texts
from train.engine.compilation import enable_compilation_cache
from train.errors import InputError

HELP = "explain an answer: what it read, over depth, by heads, near which training examples"
EXAMPLES = """
examples:
  morphax explain runs/sentiment_bert "not a dull moment"
  morphax explain runs/images_vit PICTURE.png               patches of the picture
  morphax explain runs/tiny_lm "To be or not to "           the next token
  morphax explain runs/traffic_occupancy weeks.csv --number 3      the third series of a file
  morphax explain runs/sentiment_bert "not a dull moment" --to page.html --nearest 10 --among 5000
  morphax explain runs/sentiment_bert "not a dull moment" --compare runs/other     both side by side
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument("input", metavar="INPUT", help="a text or a file, as the run asks; - reads standard input")
    parser.add_argument(
        "--number", type=int, metavar="N", help="the question, counted from 1, if the input makes several"
    )
    parser.add_argument(
        "--compare", type=Path, action="append", default=[], metavar="RUN", help="another run beside it; again for more"
    )
    parser.add_argument("--to", type=Path, metavar="PAGE", help="the page to write (default: in RUN/explained/)")
    parser.add_argument(
        "--nearest", type=int, default=5, metavar="N", help="training examples that are shown (default: 5; 0 for none)"
    )
    parser.add_argument(
        "--among", type=int, default=1000, metavar="N", help="training examples that are compared (default: 1000)"
    )
    add_run_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    enable_compilation_cache()
    from train.engine.folder import open_run
    from train.use.explain import explain
    from train.use.explain_page import (
        describe_attribution,
        format_short,
        rank_tokens,
        record_explanation,
        show_token,
        write_explanation,
    )

    if options.nearest < 0 or options.among < 1:
        raise InputError(f"--nearest is {options.nearest} and --among {options.among}; give 0 or more, and 1 or more.")
    if options.to is not None and options.to.exists():
        raise InputError(f"{options.to} exists; name another page with --to.")
    texts = list(read_texts([options.input]))
    explained = {
        str(folder): explain(
            folder,
            open_run(folder, options.config),
            texts,
            options.best,
            options.nearest,
            options.among,
            options.number,
        )
        for folder in (options.folder, *options.compare)
    }
    page = options.to or options.folder / "explained" / f"{name_page(explained[str(options.folder)].question)}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    write_explanation(page, explained)
    if options.json:
        runs = [{"run": folder, **record_explanation(explanation)} for folder, explanation in explained.items()]
        print(json.dumps({"page": str(page), "runs": runs}))
        return 0
    for folder, explanation in explained.items():
        print(f"{folder}: {format_short(explanation.answer)}")
        print(f"{describe_attribution(explanation)}:")
        for _, name, value in rank_tokens(explanation, 8):
            print(f"    {value:+.3f}  {show_token(name)}")
        for name, reason in explanation.missing.items():
            print(f"left out: {name}, because {reason}")
    print(f"written: {page}")
    return 0


def name_page(text: str) -> str:
    """The name of the page of a question: its first letters and digits, and a digest of all of it."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40]
    return f"{words or 'input'}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
