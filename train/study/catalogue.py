"""The catalogue of components, models/README.md, from the classes themselves: `python -m train.study.catalogue`.

Figures are those of each layer with its defaults (causal if it can be) at width 512 over 1,024 tokens: parameters,
counted FLOPs a token, the cache of decoding in float32 bytes a row (a constant part, and a part for each token), and
the FLOPs of decoding the token after 1,024 others.  Laws are those that the tests hold each class to.
"""

import dataclasses
import functools
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import models
from models.context import Context, Decoding
from models.contracts import KINDS, Layer, Tree, kind_of
from models.structure import fields
from train.cost.traced import count_bytes, count_flops, count_parameters

WIDTH, LENGTH = 512, 1024
PLACE = Path(models.__path__[0]) / "README.md"
HEADER = """# The components

One class each, by its kind; what a kind takes and gives is in `contracts.py`. This page is written by
`python -m train.study.catalogue` from the classes, and a test fails when it is stale. The numbers are those of the
defaults (causal where there is a choice) at width 512 over 1,024 tokens: parameters, counted FLOPs a token, what
decoding keeps a row in float32, and the FLOPs of decoding the token after 1,024 others. The laws are those that
the tests hold the class to: those of all classes of a kind stand above its table. `morphax check my_file.py` tests a
component of your own by them, and `--catalogue` gives its row of numbers.
"""


def list_classes() -> list[type]:
    """Lists every component class of models/, by name."""
    classes: list[type] = []
    for info in pkgutil.walk_packages(models.__path__, "models."):
        module = importlib.import_module(info.name)
        defined = [
            value for value in vars(module).values() if isinstance(value, type) and value.__module__ == info.name
        ]
        classes += [value for value in defined if issubclass(value, nn.Module) and kind_of(value) is not None]
    return sorted(classes, key=lambda owner: owner.__name__)


def summarize(owner: type) -> tuple[str, str]:
    """Summarizes a class: the first sentence of its docstring, and links to the papers that this names."""
    text = inspect.cleandoc(owner.__doc__ or "")
    papers = dict.fromkeys(re.findall(r"arXiv:(\d{4}\.\d{4,5})", text))
    first = re.split(r"(?<!\.)\.(?:\s+(?=[A-Z(`])|$)", " ".join(text.split("\n\n")[0].split()), maxsplit=1)[0]
    return first.replace("|", "\\|"), ", ".join(f"[{paper}](https://arxiv.org/abs/{paper})" for paper in papers)


@functools.cache
def measure_defaults(owner: type) -> tuple[str, str, str, str]:
    """Measures a layer class with its defaults: see `measure_layer`."""
    layer: Any = owner()
    if any(field.name == "causal" for field in fields(owner)):
        layer = dataclasses.replace(layer, causal=True)
    if any(field.name == "length" for field in fields(owner)):
        layer = dataclasses.replace(layer, length=LENGTH)
    return measure_layer(layer)


def measure_layer(layer: Any) -> tuple[str, str, str, str]:
    """Measures a layer: parameters, FLOPs a token, bytes that decoding keeps, FLOPs of decoding a token."""

    def rows(t: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, t, WIDTH), jnp.float32)

    def context(x: jax.Array) -> Context:
        return Context(tokens=jnp.zeros(x.shape[:2], jnp.int32))

    def decode(variables: Tree, x: jax.Array, index: int, length: int) -> Tree:
        decoding, ones = Decoding(index, length, index == 0), jnp.ones(x.shape[:2], jnp.int32)
        ctx = dataclasses.replace(context(x), segments=ones, decoding=decoding)
        return layer.apply(variables, x, ctx, mutable=["cache"])

    def start(length: int) -> Tree:
        written = jax.eval_shape(lambda params, x: decode({"params": params}, x, 0, length), shapes, rows(8))[1]
        return written.get("cache", {})

    try:
        shapes = jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, context(x)), rows(LENGTH)).get("params", {})
        work = (
            count_flops(lambda params, x: layer.apply({"params": params}, x, context(x)), shapes, rows(LENGTH)) / LENGTH
        )
    except ValueError as error:
        return "", "", str(error).splitlines()[0], ""
    try:
        cache = start(LENGTH + 1)
        small, large = count_bytes(start(LENGTH)), count_bytes(start(2 * LENGTH))
        step = count_flops(
            lambda variables, x: decode(variables, x, LENGTH, LENGTH + 1), {"params": shapes, "cache": cache}, rows(1)
        )
    except ValueError:
        kept, last = "does not decode", ""
    else:
        last = f"{step / 1e6:.2f} M"
        each = (large - small) // LENGTH
        parts = [f"{small - each * LENGTH:,}" if small - each * LENGTH else "", f"{each:,} a token" if each else ""]
        kept = " + ".join(part for part in parts if part) or "nothing"
    return f"{count_parameters(shapes):,}", f"{work / 1e6:.2f} M", kept, last


@functools.cache
def collect_laws() -> Mapping[str, Sequence[str]]:
    """Collects the laws that the tests hold each class to, by its name, without running them."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "laws.json"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "tests/laws",
            "--collect-only",
            "-q",
            "-p",
            "tests.laws.held",
            "--laws",
            str(file),
        ]
        done = subprocess.run([*command, "-p", "no:xdist"], cwd=PLACE.parent.parent, capture_output=True, text=True)
        if not file.is_file():
            raise RuntimeError(f"The tests could not be collected: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return json.loads(file.read_text(encoding="utf-8"))


def write_page() -> str:
    """Writes the catalogue as Markdown."""
    parts = [HEADER]
    known = list_classes()
    held = collect_laws()
    for kind in KINDS:
        members = [owner for owner in known if kind_of(owner) is kind]
        if not members:
            continue
        summary = " ".join(inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].split())
        extra = ("parameters", "FLOPs a token", "decoding keeps, bytes", "decoding FLOPs") if kind is Layer else ()
        shared = set(held.get(members[0].__name__, ())).intersection(
            *(held.get(owner.__name__, ()) for owner in members)
        )
        lines = [f"## {kind.__name__}", "", summary, "", f"All obey: {', '.join(sorted(shared))}.", ""]
        lines += [
            "| " + " | ".join(("class", "what it computes", "paper", *extra, "further laws")) + " |",
            "| --- " * (4 + len(extra)) + "|",
        ]
        for owner in members:
            file = owner.__module__.removeprefix("models.").replace(".", "/") + ".py"
            passed = ", ".join(law for law in held.get(owner.__name__, ()) if law not in shared)
            cells = (
                f"[`{owner.__name__}`]({file})",
                *summarize(owner),
                *(measure_defaults(owner) if kind is Layer else ()),
                passed,
            )
            lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PLACE.write_text(write_page(), encoding="utf-8")
    print(f"{PLACE} lists {len(list_classes())} components")
