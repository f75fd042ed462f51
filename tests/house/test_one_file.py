"""Additions to the project are one file each, which nothing else names: a copy of the tree finds them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.house.source import SHIPPED

ROOT = Path(__file__).parents[2]
MODULE = """import flax.linen as nn


class {}(nn.Module):
    @nn.compact
    def __call__(self, {}):
        return {}
"""
VALUE = "import dataclasses\n\n\n@dataclasses.dataclass(frozen=True)\nclass {}:\n{}"
PARTS = {  # a kind: its file, its name, its text
    "a norm": ("models/centred.py", "Centred", MODULE.format("Centred", "x", "x - x.mean(-1, keepdims=True)")),
    "an objective": (
        "train/objectives/absolute.py",
        "Absolute",
        VALUE.format(
            "Absolute", "    def __call__(self, outputs, batch): ...\n\n    def answer(self, output, names): ...\n"
        ),
    ),
    "a schedule": ("train/optimizers/steady.py", "Steady", VALUE.format("Steady", "    def build(self, steps): ...\n")),
    "a metric": (
        "train/review/kappa.py",
        "Kappa",
        VALUE.format("Kappa", "    def names(self, data): ...\n\n    def measure(self, evidence): ...\n"),
    ),
    "a picture of the report": (
        "train/review/gallery.py",
        "Gallery",
        VALUE.format("Gallery", "    def review(self, evidence): ...\n"),
    ),
    "a sink": ("train/sinks/paper.py", "Paper", VALUE.format("Paper", "    def open(self, started): ...\n")),
    "a task that probes a mixer": (
        "train/data/tasks/majority.py",
        "Majority",
        VALUE.format(
            "Majority", "    def open(self, classes=(), only=None): ...\n\n    def reader(self, classes=()): ...\n"
        ),
    ),
}
FORMAT = "from train.data.sources import Format\n\n\ndef read(path): ...\n\n\nAVRO = Format(('.avro',), read)\n"
FAMILY = (
    "import dataclasses\nfrom models.families import bert\n\nNEW = dataclasses.replace(bert.FAMILY, model_type='new')\n"
)
DELIVERED = (
    "from train.use.formats import Format\n\nNEW = Format('tarball', '', lambda run, to: (), lambda run, to: dict)\n"
)
COMMAND = "HELP = 'says hello'\nEXAMPLES = ''\n\n\ndef add(parser): ...\n\n\ndef run(options):\n    print('hello')\n"
OTHERS = {  # a kind: its file, its text, what prints its name
    "a format of files": (
        "train/data/sources/avro.py",
        FORMAT,
        "from train.data.sources import list_suffixes; print(list_suffixes())",
    ),
    "a family of weights": (
        "models/families/new.py",
        FAMILY,
        "from models.families.family import families; print([family.model_type for family in families()])",
    ),
    "a format that runs are delivered in": (
        "train/use/formats/tarball.py",
        DELIVERED,
        "from train.use.formats import list_formats; print(list(list_formats()))",
    ),
    "a command": ("train/commands/hello.py", COMMAND, "from train.cli import main; main(['hello'])"),
}
NAMES = {
    "a format of files": ".avro",
    "a family of weights": "'new'",
    "a format that runs are delivered in": "'tarball'",
    "a command": "hello",
}


def test_an_addition_is_one_file(tmp_path: Path) -> None:
    for package in SHIPPED:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file, _, text in PARTS.values():
        (tmp_path / file).write_text(text, encoding="utf-8")
    for file, text, _ in OTHERS.values():
        (tmp_path / file).write_text(text, encoding="utf-8")
    lines = ["from train.spec.parts import list_project_parts", "print(sorted(list_project_parts()))"]
    lines += [f"{show}" for _, _, show in OTHERS.values()]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    parts, *others = done.stdout.splitlines()
    assert {kind for kind, (_, name, _) in PARTS.items() if f"'{name}'" not in parts} == set()
    assert {kind for kind, line in zip(OTHERS, others, strict=True) if NAMES[kind] not in line} == set()
