"""The commands: train, eval, predict, generate, data, coordinates."""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from train.spec import InputError

COMMANDS = ("train", "eval", "predict", "generate", "data", "coordinates")
TRAIN = """
examples:
  morphax train sentiment_bert                              the config as it is, into runs/sentiment_bert
  morphax train sentiment_bert optimizer.rate.peak=3e-5     one number changed
  morphax train tiny_lm model.stack.block.mixer="Attention(heads=8, causal=True)" --run runs/eight_heads
  morphax train sentiment_bert data.path=reviews.csv        your own table, with the columns text and label
  morphax train my_config.py                                your own file with a function experiment()

The same command again continues a run that was stopped.  A value is a number, a string, a tuple, or a call of a component.
"""
EVAL = """
examples:
  morphax eval runs/sentiment_bert                          the last checkpoint on the test split
  morphax eval runs/sentiment_bert --best                   the checkpoint with the best metric
  morphax eval runs/sentiment_bert --data reviews.csv       on all of your own file, or folder
  morphax eval runs/sentiment_bert evaluation.batch_size=256
"""
PREDICT = """
examples:
  morphax predict runs/sentiment_bert "a delightful film"
  morphax predict runs/sentiment_bert - < sentences.txt     one text a line
  morphax predict runs/sentiment_bert --json "a delightful film"
  morphax predict runs/translate_multi30k "A man is riding a bicycle."
"""
GENERATE = """
examples:
  morphax generate runs/tiny_lm "ROMEO:"                    the likeliest continuation, 200 tokens, as they come
  morphax generate runs/tiny_lm "ROMEO:" --temperature 0.8 --top-k 40 --tokens 500
  morphax generate runs/tiny_lm "ROMEO:" "JULIET:" --beams 4 --json
"""
DATA = """
examples:
  morphax data list                                         this project's data sets
  morphax data prepare movie_snippets/labels                fetch and prepare one, once
  morphax data show movie_snippets/labels                   its splits, features, licence and first example
  morphax data show my_set --config my_config.py            one that your own file defines
"""
COORDINATES = """
examples:
  morphax coordinates tiny_lm                               widths 64 to 1024, ten steps each, into runs/tiny_lm_coordinates
  morphax coordinates tiny_lm --by depth --sizes 2,4,8,16   depths in place of widths
  morphax coordinates tiny_lm model.stack.block.mixer="GatedDeltaNet(heads=4)" --seeds 3

Activations that keep their size in muP (model.parametrization=mup) tell that rates tuned on a small model serve a large one.
"""


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line as everything else does, in one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError."""
        raise InputError(f"{message}; see `{self.prog} --help`.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; gives the exit code: 0, 2 for input that cannot be used, 128 + n after signal n."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] not in COMMANDS and given[0] not in ("-h", "--help"):
        given.insert(0, "train")
    try:
        options, rest = _parser().parse_known_args(given)
        if wrong := [text for text in rest if text.startswith("-") or not hasattr(options, "overrides")]:
            raise InputError(f"{' '.join(wrong)} is no argument of `morphax {given[0]}`; see `morphax {given[0]} --help`.")
        if rest:  # overrides after an option
            options.overrides.extend(rest)
        return options.run(options)
    except InputError as error:
        print(f"morphax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("morphax: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        "morphax",
        formatter_class=plain,
        description="Change the structure, keep everything else equal.",
        epilog="`python -m train CONFIG ...` is short for `morphax train CONFIG ...`; `morphax COMMAND --help` has examples.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train an experiment, or continue it", epilog=TRAIN, formatter_class=plain)
    train.add_argument("config", help="name of a file in configs/, or the path of your own")
    train.add_argument("overrides", nargs="*", metavar="path=value", help="settings to change, by their path in the experiment")
    train.add_argument("--run", dest="folder", type=Path, help="folder of the run (default: runs/CONFIG)")
    train.add_argument("--show", action="store_true", help="print the experiment and stop")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("eval", help="measure a trained run on its test split", epilog=EVAL, formatter_class=plain)
    evaluate.add_argument("folder", type=Path, help="folder of the run")
    evaluate.add_argument("overrides", nargs="*", metavar="path=value", help="settings to change, such as data.split")
    evaluate.add_argument("--data", metavar="PATH", help="your own file or folder: short for data.path=PATH data.test=PATH")
    evaluate.set_defaults(run=_evaluate)

    predict = commands.add_parser("predict", help="ask a trained run", epilog=PREDICT, formatter_class=plain)
    predict.add_argument("folder", type=Path, help="folder of the run")
    predict.add_argument("inputs", nargs="+", metavar="INPUT", help="texts or files, as the run asks; - reads lines from standard input")
    predict.set_defaults(run=_predict)

    generate = commands.add_parser("generate", help="let a trained language model go on", epilog=GENERATE, formatter_class=plain)
    generate.add_argument("folder", type=Path, help="folder of the run")
    generate.add_argument("texts", nargs="+", metavar="PROMPT", help="prompts, or - to read them from standard input, one a line")
    generate.add_argument("--tokens", type=int, default=200, help="how many tokens to add (default: 200)")
    generate.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token; 1 draws by the model's chances")
    generate.add_argument("--top-k", type=int, help="draw from the k likeliest tokens")
    generate.add_argument("--top-p", type=float, help="draw from the likeliest tokens that make up this much")
    generate.add_argument("--min-p", type=float, help="draw from tokens at least this much as likely as the likeliest")
    generate.add_argument("--seed", type=int, default=0, help="another seed draws another text")
    generate.add_argument("--beams", type=int, default=0, help="search with this many beams in place of drawing")
    generate.set_defaults(run=_generate)

    for command in (evaluate, predict, generate):
        command.add_argument("--best", action="store_true", help="use the checkpoint with the best metric, not the last")
        command.add_argument("--config", help="the config file that defines the run's own components")

    data = commands.add_parser("data", help="list, prepare or look at data sets", epilog=DATA, formatter_class=plain)
    data.add_argument("action", choices=("list", "prepare", "show"))
    data.add_argument("names", nargs="*", metavar="NAME", help="data sets, as name or name/configuration")
    data.add_argument("--config", help="the config file that defines data sets of its own")
    data.set_defaults(run=_data)

    coordinates = commands.add_parser(
        "coordinates", help="plot how large activations are over widths or depths", epilog=COORDINATES, formatter_class=plain
    )
    coordinates.add_argument("config", help="name of a file in configs/, or the path of your own")
    coordinates.add_argument("overrides", nargs="*", metavar="path=value", help="settings to change, by their path in the experiment")
    coordinates.add_argument("--by", choices=("width", "depth"), default="width", help="what grows (default: width)")
    coordinates.add_argument("--sizes", help="which (default: 64,128,256,512,1024, of depth 2,4,8,16); the smallest is muP's base")
    coordinates.add_argument("--steps", type=int, default=10, help="training steps at each size (default: 10)")
    coordinates.add_argument("--seeds", type=int, default=1, help="average over this many seeds (default: 1)")
    coordinates.add_argument("--to", dest="folder", type=Path, help="folder of the plot (default: runs/CONFIG_coordinates)")
    coordinates.set_defaults(run=_coordinates)

    for command in (train, evaluate, predict, generate, data, coordinates):
        command.add_argument("--json", action="store_true", help="print one machine-readable object")
    return parser


def _prepare_jax() -> None:
    """Settings of the process: compiled programs are kept for the next run."""
    import jax

    from train.data.published import cache

    jax.config.update("jax_compilation_cache_dir", str(cache() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _train(options: argparse.Namespace) -> int:
    from train.run import load_config
    from train.spec import encode

    experiment, _ = load_config(options.config, options.overrides)
    if options.show:
        print(json.dumps(encode(experiment), indent=2) if options.json else experiment)
        return 0
    _prepare_jax()
    from train.console import Console
    from train.loop import train
    from train.signals import InterruptedRunError

    folder = options.folder or Path("runs") / Path(options.config).stem
    console = Console()
    try:
        summary = train(experiment, folder, options.config, console)
    except InterruptedRunError as stop:
        print(f"morphax: {stop}", file=sys.stderr)
        return 128 + stop.number
    if options.json:
        print(json.dumps(summary))
    else:
        console.say(f"{folder}/report.html has the curves; ask it with: morphax predict {folder} INPUT")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    _prepare_jax()
    from train.console import pair
    from train.evaluate import evaluate
    from train.parallel import Jit
    from train.run import fitted, overridden, recorded
    from train.spec import project

    run = recorded(options.folder, options.config)
    experiment = dataclasses.replace(fitted(options.folder, run.experiment), parallel=Jit())
    if options.data is not None and not hasattr(experiment.data, "path"):
        raise InputError(f"--data is {options.data} and {type(experiment.data).__name__} reads no files; leave it out.")
    own = [f"data.{name}={options.data}" for name in ("path", "test") if options.data is not None and hasattr(experiment.data, name)]
    experiment = overridden(experiment, [*own, *options.overrides], project())
    result = evaluate(options.folder, dataclasses.replace(run, experiment=experiment), options.best)
    if options.json:
        print(json.dumps(result))
        return 0
    print(f"{options.folder}, step {result['step']}")
    for name, both in result["evaluation"].items():
        print(f"{name:<28}{pair(both['value'], both['interval'])}")
    for name, value in result["review"].items():
        if name not in result["evaluation"]:
            print(f"{name:<28}{value:.4f}")
    return 0


def _predict(options: argparse.Namespace) -> int:
    _prepare_jax()
    from train.evaluate import predict
    from train.parallel import Jit
    from train.run import fitted, recorded

    run = recorded(options.folder, options.config)
    run = dataclasses.replace(run, experiment=dataclasses.replace(fitted(options.folder, run.experiment), parallel=Jit()))
    given = list(_texts(options.inputs))
    if not given:
        raise InputError("There is nothing to predict from; give a text or a file, or lines on standard input.")
    answers = predict(options.folder, run, given, options.best)
    if options.json:
        paired = [{"input": asked} | answer for asked, answer in answers]
        print(json.dumps({"run": str(options.folder), "answers": paired}, ensure_ascii=False))
        return 0
    for asked, answer in answers:
        print(f"{asked}\n    {_worded(answer)}", flush=True)
    return 0


def _generate(options: argparse.Namespace) -> int:
    _prepare_jax()
    from models.generate import Sampler
    from train.evaluate import generate
    from train.parallel import Jit
    from train.run import fitted, recorded

    if options.tokens < 1 or options.beams < 0:
        raise InputError(f"--tokens is {options.tokens} and --beams is {options.beams}; ask for 1 token or more, and 0 beams or more.")
    try:
        sampler = Sampler(options.temperature, options.top_k, options.top_p, options.min_p)
    except ValueError as error:
        raise InputError(str(error)) from None
    run = recorded(options.folder, options.config)
    run = dataclasses.replace(run, experiment=dataclasses.replace(fitted(options.folder, run.experiment), parallel=Jit()))
    prompts = list(_texts(options.texts))
    if not prompts:
        raise InputError("There is no prompt to go on from; give one, or lines on standard input.")
    stream = generate(options.folder, run, prompts, options.tokens, sampler, options.seed, options.beams, options.best)
    live, shown, tails = len(prompts) == 1 and not options.json, "", [""] * len(prompts)
    for tails in stream:
        if live:
            if not shown:
                print(prompts[0], end="")
            ready = tails[0].rstrip("\ufffd")  # a character that is not whole yet waits for its other bytes
            print(ready.removeprefix(shown), end="", flush=True)
            shown = ready
    if options.json:
        answers = [{"prompt": prompt, "text": tail} for prompt, tail in zip(prompts, tails, strict=True)]
        print(json.dumps({"run": str(options.folder), "answers": answers}, ensure_ascii=False))
    else:
        print(tails[0].removeprefix(shown) if live else "\n\n".join(prompt + tail for prompt, tail in zip(prompts, tails, strict=True)))
    return 0


def _texts(given: Sequence[str]) -> Iterator[str]:
    for text in given:
        if text != "-":
            yield text
            continue
        try:
            lines = sys.stdin.buffer.read().decode("utf-8").split("\n")
        except UnicodeDecodeError:
            raise InputError("Standard input is not UTF-8; convert it, for example with iconv -t utf-8.") from None
        yield from (line for line in lines if line.strip())


def _worded(answer: dict[str, Any]) -> str:
    words: list[str] = []
    for name, value in answer.items():
        if isinstance(value, dict) and any(isinstance(one, list) for one in value.values()):
            words.append("\n    ".join(line for key, one in value.items() for line in _lines(f"{name} {key}", one)))
        elif isinstance(value, dict):
            words.append(", ".join(f"{key} {chance:.3f}" for key, chance in value.items()))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            words.append("; ".join(f"{next(iter(one))} {next(iter(one.values())):.2f}" for one in value))
        elif isinstance(value, list) and value and isinstance(value[0], float):
            words.append("".join(_lines(name, value)))
        else:
            words.append(f"{name} {value:.4f}" if isinstance(value, float) else f"{value}")
    return "  ".join(words)


def _lines(name: str, values: list[Any]) -> Iterator[str]:
    """A line of numbers step by step; one for each series where every step has several."""
    if values and isinstance(values[0], list):
        for number, series in enumerate(zip(*values, strict=True), 1):
            yield from _lines(f"{name} series {number}", list(series))
    else:
        yield f"{name}  {' '.join(f'{value:.4g}' for value in values)}"


def _shown(value: Any) -> str:
    """A value of an example: text as it is, of many numbers their shape, kind and range."""
    import numpy as np

    if isinstance(value, str | bytes):
        return value if isinstance(value, str) else value.decode("utf-8", errors="replace")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_shown(inner)}" for key, inner in value.items()) + "}"
    array = np.asarray(value)
    if array.size <= 8:
        return np.array2string(array, precision=6, separator=", ")
    if array.dtype.kind not in "biuf":
        return f"{array.size} values, the first {_shown(array.flat[0])}"
    return f"{array.dtype} {array.shape} from {array.min():.6g} to {array.max():.6g}"


def _data(options: argparse.Namespace) -> int:
    from train.data.source import own_names, prepare

    if options.config:
        from train.run import load_config

        load_config(options.config, [])
    if options.action == "list":
        print(json.dumps({"names": own_names()}) if options.json else "\n".join(own_names()))
        return 0
    if not options.names:
        raise InputError(f"morphax data {options.action} needs a name; see `morphax data list`.")
    shown: list[dict[str, Any]] = []
    for name in options.names:
        info = prepare(name).info
        splits = {key: split.num_examples for key, split in info.splits.items()}
        features = {key: type(feature).__name__ for key, feature in info.features.items()}
        one = {
            "name": name,
            "folder": str(info.data_dir),
            "splits": splits,
            "features": features,
            "licence": str(info.redistribution_info.license or ""),
        }
        if options.action == "show":
            example = prepare(name).as_data_source(next(iter(splits)))[0]
            one["first"] = {key: _shown(value) for key, value in example.items()}
        shown.append(one)
    if options.json:
        print(json.dumps({"data": shown}))
        return 0
    for one in shown:
        for key, value in one.items():
            print(f"{key:<10}{_shown(value)}")
    return 0


def _coordinates(options: argparse.Namespace) -> int:
    from train.run import load_config

    experiment, _ = load_config(options.config, options.overrides)
    given = options.sizes or ("64,128,256,512,1024" if options.by == "width" else "2,4,8,16")
    sizes = sorted({int(size) for size in given.split(",") if size.strip().isdecimal()})
    if len(sizes) < 2 or len(sizes) != len(given.split(",")) or sizes[0] < 1 or options.steps < 1 or options.seeds < 1:
        raise InputError(
            f"--sizes is {given}, --steps {options.steps} and --seeds {options.seeds}; give two sizes or more, as 64,128, and at least 1 "
            "step and seed."
        )
    _prepare_jax()
    from train.console import Console
    from train.study.coordinates import check, planned, table, write

    folder = options.folder or Path("runs") / f"{Path(options.config).stem}_coordinates"
    console = Console()
    plan = planned(experiment, options.by, sizes, options.steps)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {os.strerror(error.errno or 0)}; name another folder with --to.") from None
    curves = check(plan, options.by, options.seeds, console.say)
    written = write(curves, folder)
    if options.json:
        print(json.dumps(written))
    else:
        console.rich.print(table(curves))
        console.say(f"{folder}/coordinates.png")
    return 0
