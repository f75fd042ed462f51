"""Measurements of one GPU in six minutes: attention's kernel against its definition, training beside PyTorch, decoding.

    python -m tests.benchmarks.gpu [--to runs/gpu] [--minutes 6] [--rounds 3] [--toy]

The fused kernel of attention is compared with the definition in float32, in values and gradients, for each form that it
computes.  The four sizes of `tests.benchmarks.language` are trained in bfloat16, with more rows, in turn with PyTorch's
`scaled_dot_product_attention` under `torch.compile` and autocast.  The table has tokens a second, their ratio, FLOPs a
second as a share of what one product of 8,192 x 8,192 reaches on the card, and peak memory.  Then the sizes of
`tests.benchmarks.generation` decode in bfloat16.  All is written to PAGE.md, named after the card, with the versions.
What the minutes do not suffice for is left out, and the page says so.

Without a GPU it is refused; `--toy` runs every part at toy size on whatever device there is, and its page says so.
Ends with 1 if the kernel differs from the definition.
"""

import argparse
import dataclasses
import functools
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks import generation, language
from tests.benchmarks.turns import compare_speeds, read_worker, serve

ROWS = {"4 x 128": 256, "6 x 384": 64, "12 x 768": 16, "Llama, 8 x 512": 32}  # of a batch on a GPU
STEPS = {"4 x 128": 40, "6 x 384": 20, "12 x 768": 4, "Llama, 8 x 512": 8}  # of a turn
SIZES = {name: dataclasses.replace(size, rows=ROWS[name], times=STEPS[name]) for name, size in language.SIZES.items()}
TOYS = {
    "toy, 2 x 32": language.Size(32, 2, 2, 32, 2, 65, 1),
    "toy, Llama, 2 x 32": language.Size(32, 2, 4, 32, 2, 65, 1, 2),
}
TOY_TEXT = {"toy, 2 x 32": generation.Size(32, 2, 2, 64, 2, 8, 4, 1.0)}
FORMS: dict[str, dict[str, Any]] = {
    "all tokens": {},
    "causal": {"causal": True},
    "causal, window of 100": {"causal": True, "window": 100},
    "causal, grouped heads": {"causal": True, "kv_heads": 2},
    "chunks of 128": {"causal": True, "chunk": 128},
}
BOUND = 0.02  # of the largest number, between bfloat16's kernel and the definition in float32
SIDE = 8192  # of the product whose speed is the roof


def start_morphax(size: language.Size) -> tuple[Callable[[], None], int]:
    """morphax's step in bfloat16."""
    return language.start_morphax(size, "bfloat16")


def start_torch(size: language.Size) -> tuple[Callable[[], None], int]:
    """PyTorch's step in bfloat16 by autocast, compiled on a GPU."""
    import torch

    has_card = torch.cuda.is_available()
    return language.start_torch(size, "cuda" if has_card else "cpu", "bfloat16", compiled=has_card)


STARTS = {"morphax": start_morphax, "torch": start_torch}


def measure_peak(who: str) -> int:
    """Measures the bytes of the device that a worker used at most; 0 where there is no count."""
    if who == "torch":
        import torch

        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    import jax

    return int((jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0))


def check_attention(length: int) -> list[dict[str, Any]]:
    """Compares the kernel with the definition, form by form: largest differences over the largest numbers."""
    import jax
    import jax.numpy as jnp

    from models import Attention
    from models.context import Context
    from train.precision import cast

    def find(layer: Any, params: Any, x: jax.Array, ctx: Context) -> list[np.ndarray]:
        def project(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            y = layer.apply(params, x, ctx).astype(jnp.float32)
            return jnp.sin(3 * y).sum(), y

        (_, y), gradients = jax.jit(jax.value_and_grad(project, (0, 1), has_aux=True))(params, x)
        return [np.asarray(y), *(np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(gradients))]

    rows: list[dict[str, Any]] = []
    for name, form in FORMS.items():
        for packed in (False, True):
            layer = Attention(4, **form)
            x = jax.random.normal(jax.random.key(1), (2, length, 256))
            segments = 1 + jnp.arange(length)[None] * jnp.asarray([[2], [3]]) // length if packed else None
            ctx = Context(segments=segments)
            params, x = cast((layer.init(jax.random.key(0), x, ctx), x), "bfloat16")
            fused = find(dataclasses.replace(layer, implementation="fused"), params, x, ctx)
            wide, whole = cast((params, x), "float32")
            exact = find(dataclasses.replace(layer, implementation="xla"), wide, whole, ctx)
            errors = [
                float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-6)) for a, b in zip(fused, exact, strict=True)
            ]
            rows.append({"form": name, "segments": packed, "values": errors[0], "gradients": max(errors[1:])})
    return rows


def measure_roof(side: int) -> float:
    """Measures FLOPs a second of one product in bfloat16."""
    import jax
    import jax.numpy as jnp

    matrix = jnp.ones((side, side), jnp.bfloat16)
    multiply = jax.jit(jnp.matmul)
    jax.block_until_ready(multiply(matrix, matrix))
    spent: list[float] = []
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready([multiply(matrix, matrix) for _ in range(4)])
        spent.append(time.perf_counter() - began)
    return 4 * 2 * side**3 / min(spent)


def count_step(size: language.Size) -> int:
    """Counts the FLOPs of a training step, those of pairs that causal attention hides left out."""
    import jax

    from train.cost.traced import count_flops

    step, state, batch = language.make_step_of(size, "bfloat16")
    return count_flops(step, jax.eval_shape(state), batch, seen=True)


def decode(size: generation.Size) -> float:
    """Measures tokens a second of greedy decoding in bfloat16, the median of five."""
    from models.decoding.sampling import generate
    from train.precision import cast

    model, params, batch = generation.make_model(size)
    params, spent = cast(params, "bfloat16"), list[float]()
    for _ in range(6):
        began = time.perf_counter()
        for token in generate(model, params, batch, size.steps):
            np.asarray(token)
        spent.append(time.perf_counter() - began)
    return size.tokens / statistics.median(spent[1:])


def describe_card(toy: bool) -> dict[str, str]:
    """Describes the card and the versions."""
    import jax

    facts = {"card": jax.devices()[0].device_kind + (" (toy size: these are no figures)" if toy else "")}
    with_driver = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        facts["driver"] = subprocess.run(with_driver, capture_output=True, text=True, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        facts["driver"] = "unknown"
    for name in ("jax", "jaxlib", "torch"):
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = "not installed"
    return facts


class Page:
    """Parts of the page, each carried out while there is time; the last sentence of a part that had none says so."""

    def __init__(self, minutes: float) -> None:
        self.until = time.monotonic() + 60 * minutes
        self.texts: list[str] = []
        self.figures: dict[str, Any] = {}

    def add(self, name: str, measure: Callable[[], Any]) -> Any:
        """Adds what a part measures to the figures; None where the time is over."""
        if time.monotonic() > self.until:
            self.texts.append(f"{name}: left out, since the minutes were over.")
            return None
        print(name, file=sys.stderr, flush=True)
        self.figures[name] = measure()
        return self.figures[name]

    def add_table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Adds a table in Markdown."""
        lines = [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]
        self.texts.append("\n".join((f"## {title}", "", *lines)))

    def write(self, folder: Path, facts: dict[str, str]) -> Path:
        """Writes the page and its figures; returns the page's path."""
        folder.mkdir(parents=True, exist_ok=True)
        name = "".join(letter if letter.isalnum() else "_" for letter in facts["card"].partition(" (")[0]).lower()
        head = [f"# {facts['card']}", ", ".join(f"{key} {value}" for key, value in facts.items() if key != "card")]
        page = folder / f"{name}.md"
        page.write_text("\n\n".join([*head, *self.texts]) + "\n", encoding="utf-8")
        page.with_suffix(".json").write_text(json.dumps({**facts, **self.figures}, indent=1) + "\n", encoding="utf-8")
        return page


def measure(page: Page, toy: bool, rounds: int) -> bool:
    """Carries out all parts; tells if the kernel is that of the definition."""
    forms = page.add("attention", functools.partial(check_attention, 130 if toy else 1024)) or []
    page.add_table(
        "The fused kernel in bfloat16 less the definition in float32, over the largest number",
        ("attention", "segments", "values", "gradients", f"at most {BOUND}"),
        [
            (
                form["form"],
                "yes" if form["segments"] else "no",
                f"{form['values']:.4f}",
                f"{form['gradients']:.4f}",
                "holds" if max(form["values"], form["gradients"]) <= BOUND else "**missed**",
            )
            for form in forms
        ],
    )
    roof = page.add("roof", functools.partial(measure_roof, 256 if toy else SIDE)) or float("nan")
    rows: list[tuple[str, ...]] = []
    for name, size in (TOYS if toy else SIZES).items():
        turn = functools.partial(
            compare_speeds, "tests.benchmarks.gpu", tuple(STARTS), name, size.tokens, size.times, rounds
        )
        if (found := page.add(f"training, {name}", turn)) is None:
            continue
        flops = count_step(size) / size.tokens
        speeds = {who: statistics.median(found["speeds"][who]) for who in STARTS}
        ratios = found["ratios"]
        rows.append(
            (
                name,
                *(f"{speeds[who]:,.0f}" for who in STARTS),
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                *(f"{speeds[who] * flops / roof:.1%}" for who in STARTS),
                *(f"{found['peaks'][who] / 2**20:,.0f}" for who in STARTS),
            )
        )
    columns = ("model", "tokens/s", "PyTorch", "ratio", "of the roof", "PyTorch", "MiB", "PyTorch")
    page.add_table(f"Training in bfloat16; the roof is {roof / 1e12:.3g} TFLOP/s", columns, rows)
    texts = {
        name: page.add(f"decoding, {name}", functools.partial(decode, size))
        for name, size in (TOY_TEXT if toy else generation.SIZES).items()
    }
    decoded = [(name, f"{speed:,.0f}") for name, speed in texts.items() if speed is not None]
    page.add_table("Greedy decoding in bfloat16", ("model, batch", "tokens/s"), decoded)
    return all(max(form["values"], form["gradients"]) <= BOUND for form in forms)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, writes the page; returns the exit code."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two programs share the card
    if (asked := read_worker(STARTS)) is not None:
        who, name = asked
        once, count = STARTS[who]((SIZES | TOYS)[name])
        serve(once, {"parameters": count}, functools.partial(measure_peak, who))
        return 0
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--to", type=Path, default=Path("runs/gpu"), help="folder of the page (default: runs/gpu)")
    options.add_argument("--minutes", type=float, default=6.0, help="after which no part begins (default: 6)")
    options.add_argument("--rounds", type=int, default=3, help="turns of each program (default: 3)")
    options.add_argument("--toy", action="store_true", help="every part at toy size, on any device")
    given = options.parse_args(arguments)
    import jax

    if jax.default_backend() != "gpu" and not given.toy:
        print(f"This measures a GPU, and jax has {jax.default_backend()} alone; give --toy to try it.", file=sys.stderr)
        return 2
    page = Page(given.minutes)
    holds = measure(page, given.toy, given.rounds)
    print(page.write(given.to, describe_card(given.toy)).read_text(encoding="utf-8"))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
