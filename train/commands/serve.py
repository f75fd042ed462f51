"""`morphax serve`: answers over HTTP by trained runs."""

import argparse
import json
import os
import sys
from pathlib import Path

from train.commands import add_run_arguments
from train.engine.compilation import enable_compilation_cache
from train.errors import InputError

HELP = "answer over HTTP by trained runs"
EXAMPLES = """
examples:
  morphax serve runs/sentiment_bert                          http://127.0.0.1:8000 has a page to try it by hand
  morphax serve runs/tiny_lm runs/images_vit --port 9000     several runs; a request names one
  MORPHAX_TOKEN=secret morphax serve runs/tiny_lm --host 0.0.0.0     for who has the token, from other machines
  curl localhost:8000/v1/predict -d '{"input": "a delightful film"}'
  curl localhost:8000/v1/predict --data-binary @picture.png -H 'Content-Type: image/png'
"""
TOKEN = "MORPHAX_TOKEN"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen at; 0 takes a free one (default: 8000)")
    parser.add_argument(
        "--token",
        action="append",
        default=[],
        help=f"a bearer token that requests must have; again for more (better in the variable {TOKEN})",
    )
    parser.add_argument(
        "--cors", action="append", default=[], metavar="ORIGIN", help="an origin whose pages may ask; again for more"
    )
    parser.add_argument(
        "--queue", type=int, default=512, help="questions, and prompts, that may wait; more get 429 (default: 512)"
    )
    parser.add_argument("--deadline", type=float, default=60.0, help="seconds for an answer, then 504 (default: 60)")
    parser.add_argument("--limit-body", type=float, default=16.0, metavar="MIB", help="size of a body (default: 16)")
    parser.add_argument(
        "--limit-questions", type=int, default=256, metavar="N", help="questions of a request (default: 256)"
    )
    parser.add_argument(
        "--slow", type=float, default=20.0, metavar="SECONDS", help="a client that stalls longer is cut (default: 20)"
    )
    parser.add_argument("--rows", type=int, default=64, help="questions of a batch at most (default: 64)")
    parser.add_argument(
        "--slots", type=int, help="texts generated at once (default: as many as fit a GiB with their caches, 4 to 64)"
    )
    parser.add_argument(
        "--context", type=int, help="tokens of a text with its prompt (default: as many as it was trained on)"
    )
    parser.add_argument(
        "--example",
        action="append",
        default=[],
        metavar="FILE",
        help="a file like those to come, for a run whose questions have shapes that only a file tells",
    )
    add_run_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    counts = {name: getattr(options, name) for name in ("queue", "limit_questions", "rows")}
    seconds = {name: getattr(options, name) for name in ("deadline", "limit_body", "slow")}
    given = {name: getattr(options, name) for name in ("slots", "context") if getattr(options, name) is not None}
    for name, value in {**counts, **given, **seconds}.items():
        if not 0 < value < 2**31 or (name not in seconds and value < 1):
            raise InputError(f"--{name.replace('_', '-')} is {value}; give a number above 0.")
    tokens = [*options.token, *filter(None, [os.environ.get(TOKEN, "").strip()])]
    if any(not token.strip() or not token.isascii() for token in tokens):
        raise InputError("A --token is empty or not ASCII; give one of letters and digits.")
    from train.data.sources import import_extra

    for library in ("starlette", "uvicorn", "prometheus_client"):
        import_extra(library, "serve", "morphax serve")
    enable_compilation_cache()
    from PIL import Image

    from train.engine.folder import open_run
    from train.use.serving.app import State
    from train.use.serving.metrics import Metrics
    from train.use.serving.served import Limits, Served
    from train.use.serving.server import bind, make_server, warm

    Image.MAX_IMAGE_PIXELS = 2**25  # Pillow refuses twice as many
    limits = Limits(
        body=int(options.limit_body * 2**20),
        questions=options.limit_questions,
        queue=options.queue,
        rows=options.rows,
        slots=options.slots,
        context=options.context,
        deadline=options.deadline,
        slow=options.slow,
    )
    metrics = Metrics()
    socket = bind(options.host, options.port)
    runs = [
        Served(folder, open_run(folder, options.config), limits, metrics, options.best, options.example)
        for folder in options.folders
    ]
    if len({one.name for one in runs}) < len(runs):
        raise InputError("Two runs have folders of one name, by which requests name them; rename one.")
    state = State(runs, limits, metrics)
    server = make_server(state, tokens, options.cors, LOOPBACK if options.host in LOOPBACK else ())
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{host}:{socket.getsockname()[1]}"
    served = {one.name: one.describe() for one in runs}
    print(json.dumps({"address": address, "runs": served}) if options.json else f"{address} serves {', '.join(served)}")
    sys.stdout.flush()
    if options.host not in LOOPBACK and not tokens:
        print(f"morphax: who reaches {options.host} may ask; set {TOKEN} to ask for a token.", file=sys.stderr)
    failures: list[Exception] = []
    warm(state, server, failures)
    server.run(sockets=[socket])
    if failures:
        raise InputError(f"The runs cannot be compiled: {failures[0]}") from failures[0]
    return 0
