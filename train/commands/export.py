"""`morphax export`: writes a trained run for use elsewhere."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from train.commands import add_run_arguments
from train.engine.compilation import enable_compilation_cache

if TYPE_CHECKING:
    from train.summary import Measured
    from train.use.export import Artefact, Checked

HELP = "write a trained run for use elsewhere"
EXAMPLES = """
examples:
  morphax export runs/sentiment_bert delivered                     a StableHLO program and its weights, run by jax
  morphax export runs/sentiment_bert delivered --best              the checkpoint with the best metric
  morphax export runs/sentiment_bert delivered --to hf             a folder of Hugging Face, for BERT's structure
  morphax export runs/sentiment_bert delivered --to safetensors    the parameters by path
  morphax export runs/sentiment_bert delivered --to onnx           extra: onnx
  morphax export runs/sentiment_bert delivered --quantize int8     a quarter of the size, and the metrics it costs
  morphax export runs/sentiment_bert delivered --to onnx --quantize dynamic

What is written is read back and compared with the run on held-out examples; the exit code is 1 if they differ.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument("out", type=Path, help="new folder to write into")
    parser.add_argument("--to", default="stablehlo", metavar="FORMAT", help="the format (default: stablehlo)")
    parser.add_argument(
        "--quantize",
        metavar="METHOD",
        help="int8: matrices in int8; dynamic: what meets them too, for onnx; both measure what it costs in metrics",
    )
    add_run_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code: 1 if what is written gives other outputs than the run."""
    enable_compilation_cache()
    from train.engine.folder import open_run
    from train.use.export import export, is_close

    recorded = open_run(options.folder, options.config)
    artefact = export(options.folder, recorded, options.out, options.to, options.best, options.quantize)
    close = is_close(artefact["checked"])
    if options.json:
        print(json.dumps({"folder": str(options.out), **artefact}, ensure_ascii=False))
    else:
        if close:
            print(f"{options.folder}, step {artefact['step']}, is in {options.out} as {options.to}")
        for name, said in list_lines(artefact):
            print(f"{name:<10}{said}")
    for remark in artefact["remarks"]:
        print(remark, file=sys.stderr)
    checked = artefact["checked"]
    if close:
        return 0
    print(
        f"morphax: {options.out} does not give the outputs of the run: they differ by {checked[checked['judged']]} and"
        f" {checked['tolerance']:.2g} is allowed; do not use it.",
        file=sys.stderr,
    )
    return 1


def list_lines(artefact: "Artefact") -> Iterator[tuple[str, str]]:
    """Lists lines for people: inputs, outputs, symbolic axes, and the check."""
    from models.words import join

    for kind in ("inputs", "outputs"):
        for name, array in artefact[kind].items():
            yield kind[:-1], f"{name} {array['dtype']} ({', '.join(map(str, array['shape']))})"
    symbolic = [f"{symbol}: {meaning}" for symbol, meaning in artefact["symbolic"].items()]
    yield "symbolic", join(symbolic) or "nothing: the arrays have these extents"
    checked = artefact["checked"]
    apart = "no number" if checked["difference"] is None else f"{checked['difference']:.2g}"
    mean = "" if (relative := checked["relative"]) is None else f", in the root mean square {relative:.2%} of them"
    yield (
        "checked",
        f"{checked['examples']} held-out examples: the largest difference from the run is {apart}, of outputs up to"
        f" {checked['largest']:.3g}{mean if checked['judged'] == 'relative' else ''};"
        f" {format_allowed(checked)} is allowed ({checked['precision']})",
    )
    if (quantized := artefact.get("quantized")) is None:
        return
    size, before = (quantized[name] / 2**20 for name in ("written", "weights"))
    yield (
        "quantized",
        f"{quantized['method']}; the files have {size:.2f} MiB, the run's weights {before:.2f} MiB",
    )
    for name, by in quantized["metrics"].items():
        now, then = (format_measured(by[who]) for who in ("delivered", "run"))
        yield "test", f"{name} {now}; of the run {then}"


def format_allowed(checked: "Checked") -> str:
    """Formats the largest difference allowed: a number, or a share of the outputs."""
    return f"{checked['tolerance']:.2g}" if checked["judged"] == "difference" else f"{checked['tolerance']:.0%}"


def format_measured(measured: "Measured") -> str:
    """Formats a metric with its interval."""
    if (value := measured["value"]) is None:
        return "no number"
    half = measured["interval"]
    return f"{value:.4f}" + ("" if half is None else f" ± {half:.4f}")
