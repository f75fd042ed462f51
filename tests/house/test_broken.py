"""Small trees that are broken on purpose: every check finds its fault, and none in a sound tree."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.house import layers, names, sizes

PACKAGE = '"""A package of a few words."""\n'
PROTOCOL = "from typing import Protocol\n\n\nclass Layer(Protocol):\n    def __call__(self, x, ctx): ...\n"
PART = "import flax.linen as nn\n\n\nclass {}(nn.Module):\n    def __call__(self, x, ctx):\n        return x\n"
COMMAND = 'HELP = ""\nEXAMPLES = """\n  morphax {} tiny_lm\n"""\n\n\ndef add(parser): ...\n\n\ndef run(options): ...\n'
SOUND = {
    "models/__init__.py": PACKAGE,
    "models/contracts.py": PROTOCOL,
    "models/mixer.py": PART.format("Mixer"),
    "train/__init__.py": PACKAGE,
    "train/engine/__init__.py": PACKAGE,
    "train/objectives/__init__.py": PACKAGE,
    "train/optimizers/__init__.py": PACKAGE,
    "train/spec/__init__.py": PACKAGE,
    "train/errors.py": "class InputError(ValueError): ...\n",
    "train/spec/json.py": "from models.mixer import Mixer\nfrom train.errors import InputError\n",
    "train/objectives/losses.py": "from train.optimizers import rules\n",  # of one level
    "train/optimizers/rules.py": "",
    "train/engine/step.py": "from train.spec.json import InputError\n\nvalue = getattr(options, options.name)\n",
    "train/commands/__init__.py": PACKAGE,
    "train/commands/plan.py": COMMAND.format("plan"),
    "configs/__init__.py": PACKAGE,
    "tests/__init__.py": PACKAGE,
    "tests/helper.py": "from train.engine import step\n",
    "tests/test_step.py": "from tests import helper\n",
}


def built(folder: Path, files: Mapping[str, str]) -> Path:
    """A tree of files in a folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


CHECKS = {
    "a module of no part": (layers.unknown, []),
    "an import that points up": (layers.upward, set()),
    "a circle": (layers.circles, set()),
    "a test that is shipped": (layers.importers_of_tests, set()),
    "a test file that is shared": (layers.importers_of_test_files, set()),
    "a name twice": (names.shared_names, {}),
    "an attribute by its name": (names.undeclared, set()),
    "a command of another name": (names.misnamed_commands, []),
    "a silent package": (names.silent_packages, []),
    "a long file": (sizes.long_files, {}),
    "a long line": (sizes.long_lines, {}),
}
UPWARD = "an import that points up"
SHARED, SHIPPED = "a test file that is shared", "a test that is shipped"
TWICE, ASKED = "a name twice", "an attribute by its name"
COMMANDS, SILENT = "a command of another name", "a silent package"
UP, CIRCLE = {("models.mixer", "train.spec.json")}, {("objectives", "optimizers")}
OF_TEST = {("tests.helper", "tests.test_step")}
BASE = PART.format("Base")
PLAN = "train/commands/plan.py"
BROKEN = [  # the check, the file, its text, what is found
    ("a module of no part", "train/plumbing.py", "", ["train.plumbing"]),
    (UPWARD, "models/mixer.py", "import train.spec.json", UP),
    (UPWARD, "models/mixer.py", "from train.spec import json", UP),
    (UPWARD, "models/mixer.py", "from ..train.spec.json import decode", UP),
    (UPWARD, "train/spec/json.py", "from ..engine.step import step", {("train.spec.json", "train.engine.step")}),
    (UPWARD, "models/mixer.py", "def late():\n    from train.spec.json import decode", UP),
    (UPWARD, "models/mixer.py", "try:\n    pass\nexcept ValueError:\n    from train.spec import json", UP),
    (UPWARD, "models/mixer.py", 'spec = importlib.import_module("train.spec.json")', UP),
    ("a circle", "train/optimizers/rules.py", "from train.objectives import losses", CIRCLE),
    (SHIPPED, "train/spec/json.py", "from tests.helper import step", {("train.spec.json", "tests.helper")}),
    (SHARED, "tests/helper.py", "from tests.test_step import X", OF_TEST),
    (SHARED, "tests/helper.py", "from tests import test_step", OF_TEST),
    (TWICE, "models/other.py", PART.format("Mixer"), {"Mixer": ["models.mixer", "models.other"]}),
    (TWICE, "models/other.py", "class Mixer:\n    def __call__(self, x, ctx): ...", {}),  # is no part
    (TWICE, "train/mixing.py", f"{BASE}\n\nclass Mixer(Base): ...", {"Mixer": ["models.mixer", "train.mixing"]}),
    (
        ASKED,
        "train/engine/step.py",
        "x = getattr(data, 'ids', None)",
        {("train/engine/step.py", "getattr(data, 'ids', None)")},
    ),
    (ASKED, "train/engine/step.py", "x = hasattr(data, 'ids')", {("train/engine/step.py", "hasattr(data, 'ids')")}),
    (COMMANDS, PLAN, COMMAND.format("draw"), [f"{PLAN} has examples of draw"]),
    (COMMANDS, PLAN, COMMAND.format("plan").partition("def run")[0], [f"{PLAN} defines no run"]),
    (SILENT, "train/__init__.py", '"""Training."""', ["train"]),
    (SILENT, "train/data/text.py", "", ["train.data"]),
    ("a long file", "tests/helper.py", "\n" * 401, {"tests/helper.py": 401}),
    ("a long line", "tests/helper.py", f"# {'x' * 119}\n# {'x' * 118}", {"tests/helper.py": 1}),
]


@pytest.mark.parametrize("name", CHECKS)
def test_a_sound_tree_is_sound(name: str, tmp_path: Path) -> None:
    check, nothing = CHECKS[name]
    assert check(built(tmp_path, SOUND)) == nothing


@pytest.mark.parametrize(("name", "file", "text", "found"), BROKEN)
def test_a_broken_tree_is_found_out(name: str, file: str, text: str, found: object, tmp_path: Path) -> None:
    assert CHECKS[name][0](built(tmp_path, {**SOUND, file: text})) == found


def test_every_check_has_a_tree_that_fails_it() -> None:
    assert {name for name, _, _, found in BROKEN if found} == set(CHECKS)
