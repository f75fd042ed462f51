"""Speculative decoding of Shakespeare: tokens a second with a draft over those without, and tokens of a pass.

    python -m tests.benchmarks.drafts [--runs runs/drafts] [--tokens 128] [--json FILE]

A model of 6 layers of width 384 and a draft of 2 layers of width 128 are trained on tiny Shakespeare with windows of
256 bytes, minutes each, or found trained in the folder.  Eight passages of 64 bytes that were held out are continued
one after the other, without a draft and with each in turn, by the likeliest tokens and by tokens drawn at a temperature
of 0.8.  Goal: the best draft gives 1.5 times as many of the likeliest tokens a second, and the same ones.  Ends with 1
where either does not hold.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from models.decoding.sampling import Sampler, generate, padded
from models.decoding.speculative import Lookup, speculate
from tests.benchmarks.measure import begin, finish, note, parser, report
from train.data.sources import open_dataset
from train.engine.folder import open_run
from train.engine.prepared import prepare_inference
from train.use.drafts import open_draft
from train.use.evaluate import restore_params

FASTER, PROMPTS, PROMPT = 1.5, 8, 64
SHARED = ("data.dataset=tiny_shakespeare", "data.length=256", "evaluation.every=none")
RUNS = {  # settings of the two
    "model": (
        "model.stack.repeats=6",
        "model.embed.width=384",
        "batch_size=4",
        "steps=400",
        "optimizer.rate.peak=1e-3",
    ),
    "draft": ("model.stack.repeats=2", "model.embed.width=128", "batch_size=8", "steps=400"),
}
SAMPLERS = {"likeliest": Sampler(), "temperature 0.8": Sampler(temperature=0.8)}


def train(folder: Path) -> None:
    """Trains both, unless they are."""
    for name, settings in RUNS.items():
        command = [sys.executable, "-m", "train", "lm_shakespeare", *SHARED, *settings, "--run", str(folder / name)]
        subprocess.run(command, check=True, stdout=sys.stderr)


def cut_passages() -> list[bytes]:
    """Passages of the held-out text, at equal distances."""
    text = open_dataset("tiny_shakespeare", "test").examples[0]["text"]
    return [text[start : start + PROMPT] for start in range(0, len(text) - PROMPT, len(text) // PROMPTS)][:PROMPTS]


def decode(stream: Iterator[np.ndarray]) -> tuple[list[int], int, float]:
    """The tokens of one text, passes and seconds from the second on, which hold no prompt."""
    tokens, passes = np.atleast_1d(next(stream)).ravel().tolist(), 0
    began = time.perf_counter()
    for new in stream:
        tokens += np.atleast_1d(new).ravel().tolist()
        passes += 1
    return tokens, passes, time.perf_counter() - began


def main() -> None:
    """Measures and prints the table."""
    options = parser(__doc__)
    options.add_argument("--runs", type=Path, default=Path("runs/drafts"), help="folder of both (default: runs/drafts)")
    options.add_argument("--tokens", type=int, default=128, help="tokens of a continuation (default: 128)")
    given = options.parse_args()
    begin()
    train(given.runs)
    run = open_run(given.runs / "model", None)
    data: Any = run.experiment.data.reader(run.classes)
    model: Any = run.experiment.model
    first = {name: np.asarray(value) for name, value in padded([[0, 1]]).items()}
    params = restore_params(given.runs / "model", prepare_inference(run.experiment, data, first), best=False)[1]
    drafts = {
        "no draft": None,
        "lookup, 4": Lookup(4),
        "lookup, 8": Lookup(8),
        "2 x 128, 2": open_draft(str(given.runs / "draft"), 2, data.tokens),
        "2 x 128, 4": open_draft(str(given.runs / "draft"), 4, data.tokens),
    }
    prompts = [padded([data.tokens.encode([text.decode()])[0].tolist()]) for text in cut_passages()]
    rows, figures, failures = [], {}, list[str]()
    for kind, sampler in SAMPLERS.items():
        spent, made, passes = (dict.fromkeys(drafts, 0.0) for _ in range(3))
        for turn, prompt in enumerate([prompts[0], *prompts]):  # the first compiles
            said: dict[str, list[int]] = {}
            for name, draft in drafts.items():
                if draft is None:
                    stream = generate(model, params, prompt, given.tokens, sampler)
                else:
                    stream = speculate(model, params, prompt, given.tokens, draft, sampler)
                said[name], count, seconds = decode(stream)
                if turn:
                    spent[name], passes[name] = spent[name] + seconds, passes[name] + count
                    made[name] += len(said[name]) - 1
            if kind == "likeliest" and any(tokens != said["no draft"] for tokens in said.values()):
                failures.append(f"passage {turn} is continued by other tokens with a draft")
        speeds = {name: made[name] / spent[name] for name in drafts}
        for name, speed in speeds.items():
            ratio = speed / speeds["no draft"]
            figures[f"{kind}, {name}"] = {"a second": speed, "ratio": ratio, "a pass": made[name] / passes[name]}
            rows.append((kind, name, f"{speed:,.0f}", f"{ratio:.2f}", f"{made[name] / passes[name]:.2f}"))
        best = max(speeds.values()) / speeds["no draft"]
        note(f"{kind}: {best:.2f}")
        if kind == "likeliest" and best < FASTER:
            failures.append(f"The best draft gives {best:.2f} times the tokens a second, {FASTER:g} are the goal")
    report(("tokens", "draft", "tokens/s", "times", "tokens a pass"), rows, "Shakespeare continued with a draft")
    finish(figures, given.json, failures)


if __name__ == "__main__":
    main()
