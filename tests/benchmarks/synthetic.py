"""Every sequence mixer on associative recall and selective copying, and the tables in `configs/recall.py` and
`configs/selective_copy.py`.

    python -m tests.benchmarks.synthetic                              # both tasks, about 90 minutes on one CPU core
    python -m tests.benchmarks.synthetic recall --only Mamba2 RWKV7   # one task, some mixers

Each mixer is trained as by `python -m train recall model.stack.block.mixer=...`, until it is right 97 times of 100 or
its steps are over, in a folder of its own under --runs.  What is finished there is not trained again, and what was
stopped goes on.
"""

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import rich.box
import rich.console
import rich.table

from train.config import load_config

MIXER = "model.stack.block.mixer"
TASKS = ("recall", "selective_copy")
ENOUGH = 0.95
EASIER = {
    "a": ('data="Recall(pairs=4, length=16, vocab=24)"', "model.embed.vocab=24"),
    "b": ('data="Recall(pairs=2, length=8, vocab=12)"', "model.embed.vocab=12"),
    "c": ('data="Recall(pairs=2, length=8)"',),
    "d": ('data="Recall(pairs=4, length=12)"',),
    "e": ('data="SelectiveCopy(data=4, length=12)"',),
    "f": ('data="SelectiveCopy(data=2, length=8)"',),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A mixer: what follows `model.stack.block.mixer` on the command line, and which easier form of each task it is
    given.

    `recalling` stands in place of `mixer` for recall.
    """

    name: str
    mixer: str
    recall: str = ""
    selective_copy: str = ""
    recalling: str = ""

    def settings(self, task: str) -> tuple[str, str]:
        """What follows `model.stack.block.mixer`, and the letter of the task."""
        return (self.recalling if task == "recall" and self.recalling else self.mixer), getattr(self, task)

    def overrides(self, task: str) -> list[str]:
        """Its settings as the command gets them from a shell."""
        mixer, letter = self.settings(task)
        return [*([MIXER + mixer] if mixer else []), *(text.replace('"', "") for text in EASIER.get(letter, ()))]


CASES = (
    Case("Attention", ""),
    Case("Attention, window", ".window=16"),
    Case("Attention, chunk", ".chunk=12", "d", "e"),
    Case("Attention, sigmoid", ".weigh=Sigmoid()", "a"),
    Case("Attention, sink", ".weigh.sink=true"),
    Case("Attention, MoBA", ".relative=BlockRouting(block=4)", recalling=".relative=BlockRouting(block=4, active=4)"),
    Case("LatentAttention", "=LatentAttention(heads=2, rank=32, rotary=16, causal=True)"),
    Case("DifferentialAttention", "=DifferentialAttention(heads=2, causal=True, position=RoPE())"),
    Case("ForgettingAttention", "=ForgettingAttention(heads=2)"),
    Case("ValueResidual", "=ValueResidual(heads=2, causal=True, position=RoPE())"),
    Case("SharedAttention", "=SharedAttention(heads=2, causal=True, position=RoPE())"),
    Case(
        "LinearAttention",
        "=LinearAttention(heads=2)",
        "a",
        recalling="=Sum((LinearAttention(1, feature=squared_relu), ShortConvolution(2)))",
    ),
    Case(
        "Retention",
        "=Retention(heads=2)",
        recalling="=Sum((Retention(1, position=none), ShortConvolution(2)))",
    ),
    Case(
        "GatedLinearAttention",
        "=GatedLinearAttention(heads=2)",
        recalling="=Sum((GatedLinearAttention(1, key_expand=1.0), ShortConvolution(2)))",
    ),
    Case("DeltaNet", "=DeltaNet(heads=2)"),
    Case("GatedDeltaNet", "=GatedDeltaNet(heads=2, key_expand=1.0, expand=2.0)"),
    Case("KimiDeltaAttention", "=KimiDeltaAttention(heads=2)"),
    Case("Mamba1", "=Mamba1()", "a"),
    Case("Mamba2", "=Mamba2(heads=2, state_width=32)"),
    Case("RGLRU", "=RGLRU()", "a"),
    Case("MinGRU", "=MinGRU()", "b"),
    Case("MinLSTM", "=MinLSTM()", "b"),
    Case(
        "MLSTM",
        "=MLSTM(heads=2, key_expand=1.0, input_bias=0.0)",
        recalling="=Sum((MLSTM(1, key_expand=1.0, input_bias=0.0), ShortConvolution(2)))",
    ),
    Case("RWKV7", "=RWKV7(heads=2, rank=16, gate_rank=32)"),
    Case("ShortConvolution", "=ShortConvolution(width=8)", "c"),
    Case("GatedConvolution", "=GatedConvolution(width=8)", "b"),
    Case("LongConvolution", "=LongConvolution(length=24)", "b"),
    Case("Sum", "=Sum((Attention(heads=2, causal=True, position=RoPE()), MLP()))"),
    Case("Concat", "=Concat((ForgettingAttention(heads=2), Mamba2(heads=2, state_width=32)))"),
    Case("TokenMLP", "=TokenMLP(length=24)", "b"),
    Case("Fourier", "=Fourier()", "b", "f"),
    Case("Pooling", "=Pooling(window=4)", "b", "f"),
)


def measured(case: Case, task: str, runs: Path) -> dict[str, Any]:
    """Trains one mixer on one task, or continues it, or reads it; its row of the table."""
    from train.report.console import Console
    from train.use.fit import fit

    summary = fit(
        load_config(task, case.overrides(task))[0], runs / task / case.name.replace(", ", "_"), task, Console()
    )
    mixer, letter = case.settings(task)
    accuracy = summary["evaluation"]["accuracy"]["value"]
    return {"name": case.name, "mixer": mixer, "task": letter, "steps": summary["steps"], "accuracy": accuracy}


def printed(rows: list[dict[str, Any]], console: rich.console.Console) -> None:
    """The table of one task, its accuracies rounded down."""
    width = max(len(row["name"]) for row in rows)
    table = rich.table.Table("mixer".ljust(width), MIXER, "task", "steps", "accuracy", box=rich.box.MARKDOWN)
    for row in rows:
        accuracy = f"{math.floor(1000 * row['accuracy']) / 1000:.3f}" + ("" if row["accuracy"] >= ENOUGH else " !")
        table.add_row(row["name"], row["mixer"], row["task"], str(row["steps"]), accuracy)
    console.print(table)
    for letter in sorted({row["task"] for row in rows} - {""}):
        console.print(f"{letter}: {' '.join(EASIER[letter])}", highlight=False, markup=False)


def main() -> None:
    """Trains and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "tasks", nargs="*", default=TASKS, metavar="TASK", help="recall, selective_copy (default: both)"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[case.name for case in CASES], help="these mixers")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/synthetic"), help="where the runs are (default: runs/synthetic)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    options = parser.parse_args()
    chosen = [case for case in CASES if not options.only or case.name in options.only]
    results = {task: [measured(case, task, options.runs) for case in chosen] for task in options.tasks}
    for task, rows in results.items():
        print(f"\n{task}")
        printed(rows, rich.console.Console(width=160))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
