"""What the benchmarks of structures share: the mixers that they run over, times in turn, tables."""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table

from models import Attention, Sigmoid
from models.attention.sparse import BlockRouting
from models.context import Context, Decoding
from models.contracts import Layer, kind_of
from models.structure import fields
from train.allocator import restart
from train.study.catalogue import list_classes

WIDTH, NEAR = 512, 256  # NEAR: tokens of the window and of the chunk of attention that sees its neighbourhood
CHANNEL_MIXERS = ("ExpertChoice", "SoftMoE")  # whose experts see all tokens, but which mix none
FORMS = {
    "Attention, window": Attention(causal=True, window=NEAR),
    "Attention, chunk": Attention(causal=True, chunk=NEAR),
    "Attention, sigmoid": Attention(causal=True, weigh=Sigmoid()),
    "Attention, grouped": Attention(causal=True, kv_heads=2),
    "Attention, blocks": Attention(causal=True, relative=BlockRouting()),
}


def mixers() -> dict[str, Any]:
    """Every layer of the catalogue that mixes tokens, causal where there is a choice, and further forms of attention;
    by name.
    """
    found = [
        owner
        for owner in list_classes()
        if kind_of(owner) is Layer and hasattr(owner, "causal") and owner.__name__ not in CHANNEL_MIXERS
    ]
    layers = {
        owner.__name__: owner(causal=True) if any(f.name == "causal" for f in fields(owner)) else owner()
        for owner in found
    }
    attention = layers.pop("Attention")
    return {"Attention": attention} | FORMS | layers


def fitted(layer: Any, length: int) -> Any:
    """The layer for rows of this length, where it has to know it."""
    return (
        dataclasses.replace(layer, length=length)
        if any(field.name == "length" for field in fields(type(layer)))
        else layer
    )


def numbers(*shape: int) -> jax.Array:
    """Standard normal numbers."""
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def make_context(x: jax.Array | jax.ShapeDtypeStruct, decoding: Decoding | None = None) -> Context:
    """The context of a row of one segment, with ids of tokens for layers that look values up by them."""
    tokens = jnp.broadcast_to(jnp.arange(x.shape[1]) % 256, x.shape[:2])
    segments = None if decoding is None else jnp.ones(x.shape[:2], jnp.int32)
    return Context(tokens=tokens, segments=segments, decoding=decoding)


def output(layer: Any, params: Any, x: jax.Array) -> jax.Array:
    """What a layer gives, without what it passes on to later layers."""
    y = layer.apply({"params": params}, x, make_context(x))
    return y[0] if isinstance(y, tuple) else y


def start(layer: Any, x: jax.Array) -> Any:
    """Its parameters."""
    return jax.jit(lambda x: layer.init(jax.random.key(0), x, make_context(x)))(x).get("params", {})


def kept_bytes(layer: Any, length: int) -> int | None:
    """What decoding keeps of a row of this length, None where the layer does not decode."""
    layer = fitted(layer, 1024)
    x = jax.ShapeDtypeStruct((1, 8, WIDTH), jnp.float32)

    def call(x: jax.Array) -> Any:
        ctx = make_context(x, Decoding(0, length))
        return layer.init_with_output(jax.random.key(0), x, ctx)[1].get("cache", {})

    try:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(call, x)))
    except ValueError:
        return None


def constant(layer: Any) -> bool:
    """Whether decoding keeps as much of a long row as of a short one."""
    short = kept_bytes(layer, 2048)
    return short is not None and short == kept_bytes(layer, 8192)


def seconds(call: Callable[[], Any]) -> float:
    """Seconds until a call's results are there."""
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def measure_memory(times: int = 7) -> float:
    """Bytes a second that all cores read together, each its own array of 256 MiB; the median."""
    arrays = [np.ones(2**26, np.float32) for _ in os.sched_getaffinity(0)]
    spent: list[float] = []
    with ThreadPoolExecutor(len(arrays)) as pool:
        for _ in range(times):
            began = time.perf_counter()
            list(pool.map(np.sum, arrays))
            spent.append(time.perf_counter() - began)
    return sum(array.nbytes for array in arrays) / statistics.median(spent)


def in_turn(first: Callable[[], Any], second: Callable[[], Any], times: int, often: int) -> list[tuple[float, float]]:
    """Seconds of both, in turn `times` times, so that the machine's drift is the same for both; the first is the median
    of `often`.
    """
    return [(statistics.median(seconds(first) for _ in range(often)), seconds(second)) for _ in range(times)]


def selected(names: Iterable[str], only: Sequence[str] | None) -> list[str]:
    """The names that contain one of those asked for; all where none is."""
    chosen = [name for name in names if not only or any(part.lower() in name.lower() for part in only)]
    if not chosen:
        raise SystemExit(f"Nothing is named {' or '.join(only or ())}; there are {', '.join(names)}.")
    return chosen


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that these benchmarks share."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="+", metavar="NAME", help="only what has one of these in its name")
    options.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return options


def report(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    """Prints a table."""
    table = rich.table.Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    rich.console.Console(width=140).print(table)


def note(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def finish(figures: Any, place: Path | None, failures: Sequence[str]) -> None:
    """Writes the figures, and ends with 1 where a goal does not hold."""
    if place is not None:
        place.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    for failure in failures:
        print(f"misses its goal: {failure}")
    sys.exit(1 if failures else 0)


def begin() -> None:
    """Starts Python again with large pages, as morphax's commands do: fresh buffers of gigabytes otherwise cost as much
    as the sums.
    """
    restart()
