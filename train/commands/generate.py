"""`morphax generate`: generates text by a trained language model."""

import argparse
import dataclasses
import functools
import json
import sys
from pathlib import Path

from train.commands import add_run_arguments, read_texts
from train.engine.compilation import enable_compilation_cache
from train.errors import InputError

HELP = "let a trained language model go on"
EXAMPLES = """
examples:
  morphax generate runs/tiny_lm "ROMEO:"                    the likeliest continuation, 200 tokens, as they come
  morphax generate runs/tiny_lm "ROMEO:" --temperature 0.8 --top-k 40 --tokens 500
  morphax generate runs/tiny_lm "ROMEO:" "JULIET:" --beams 4 --json
  morphax generate runs/lm "ROMEO:" --draft runs/small_lm   the same text in fewer passes of the model
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument(
        "texts", nargs="+", metavar="PROMPT", help="prompts, or - to read them from standard input, one a line"
    )
    parser.add_argument("--tokens", type=int, default=200, help="how many tokens to add (default: 200)")
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="0 takes the likeliest token; 1 draws by the model's chances"
    )
    parser.add_argument("--top-k", type=int, help="draw from the k likeliest tokens")
    parser.add_argument("--top-p", type=float, help="draw from the likeliest tokens that make up this much")
    parser.add_argument("--min-p", type=float, help="draw from tokens at least this much as likely as the likeliest")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws another text")
    parser.add_argument("--beams", type=int, default=0, help="search with this many beams in place of drawing")
    parser.add_argument(
        "--draft",
        metavar="lookup|RUN",
        help="let a draft foretell tokens that the model verifies in one pass: what followed the last tokens where they"
        " occurred before (lookup), or the run of a smaller model; the likeliest text stays the same",
    )
    parser.add_argument(
        "--foretell", type=int, metavar="N", help="tokens that the draft foretells at once (default: 4)"
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        help="compute in this in place of what the run was trained in: bfloat16 halves what an accelerator reads of"
        " weights and cache for each token",
    )
    add_run_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    enable_compilation_cache()
    from models.decoding.sampling import Sampler
    from train.engine.folder import open_run
    from train.use.drafts import open_draft
    from train.use.evaluate import generate

    if options.tokens < 1 or options.beams < 0:
        raise InputError(
            f"--tokens is {options.tokens} and --beams is {options.beams}; ask for 1 token or more, and 0 beams or"
            " more."
        )
    if not 0 <= options.seed < 2**32:
        raise InputError(f"--seed is {options.seed}; give a whole number from 0 to {2**32 - 1}.")
    drawn = [
        f"--{name.replace('_', '-')}" for name in ("top_k", "top_p", "min_p") if getattr(options, name) is not None
    ]
    if options.beams and (options.temperature or drawn):
        chosen = ["--temperature"] * bool(options.temperature) + drawn
        raise InputError(
            f"--beams searches for the likeliest text and {' and '.join(chosen)} would draw another; leave one of"
            " them out."
        )
    if options.beams and options.draft is not None:
        raise InputError("--beams searches among many texts and --draft foretells one; leave one of them out.")
    if options.foretell is not None and (options.draft is None or options.foretell < 1):
        raise InputError(f"--foretell is {options.foretell}; give 1 token or more, and a --draft that foretells them.")
    if drawn and not options.temperature:
        raise InputError(
            f"{' and '.join(drawn)} chooses what to draw from, and --temperature is 0, which draws nothing; set it"
            " above 0."
        )
    try:
        sampler = Sampler(options.temperature, options.top_k, options.top_p, options.min_p)
    except ValueError as error:
        raise InputError(str(error)) from None
    run = open_run(options.folder, options.config)
    if options.precision is not None:
        run = dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, precision=options.precision))
    prompts = list(read_texts(options.texts))
    if not prompts:
        raise InputError("There is no prompt to go on from; give one, or lines on standard input.")
    foretell = None if options.draft is None else functools.partial(open_draft, options.draft, options.foretell)
    stream = generate(
        options.folder, run, prompts, options.tokens, sampler, options.seed, options.beams, options.best, foretell
    )
    live = len(prompts) == 1 and not options.json
    shown = ""
    tails, passes = [""] * len(prompts), 0
    for tails in stream:
        passes += 1
        if live:
            if not shown:
                print(prompts[0], end="")
            ready = tails[0].rstrip("\ufffd")  # a character that is not whole yet waits for its other bytes
            print(ready.removeprefix(shown), end="", flush=True)
            shown = ready
    if options.json:
        answers = [{"prompt": prompt, "text": tail} for prompt, tail in zip(prompts, tails, strict=True)]
        counted = {} if options.draft is None else {"passes": passes}
        print(json.dumps({"run": str(options.folder), "answers": answers, **counted}, ensure_ascii=False))
    else:
        print(
            tails[0].removeprefix(shown)
            if live
            else "\n\n".join(prompt + tail for prompt, tail in zip(prompts, tails, strict=True))
        )
    if options.draft is not None:
        print(f"{options.tokens} tokens in {passes} passes of the model", file=sys.stderr)
    return 0
