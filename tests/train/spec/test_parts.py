"""Parts of an experiment: found by what they are, of unique names, and recorded with their modules if a user's."""

import dataclasses
import importlib
import inspect
import json
import pkgutil
import sys
from pathlib import Path
from typing import Any, get_args

import flax.linen as nn
import jax
import pytest

import train
from models import Attention, Block, HyperConnections, part, replace
from models.contracts import KINDS, conforms
from train.cli import main
from train.config import load_config
from train.contracts import Schedule
from train.data.tasks.synthetic import Recall
from train.engine.folder import read_run, record
from train.errors import InputError
from train.experiment import Experiment
from train.objectives import NextToken
from train.optimizers import Cosine
from train.spec.encoding import decode, encode
from train.spec.overrides import override
from train.spec.parts import discover, is_contract, list_components, list_project_parts, merge_names, read_annotations

MINE = """
import dataclasses
import flax.linen as nn
from configs import tiny_lm
from models import HyperConnections as Theirs, PreNorm, replace


class HyperConnections(nn.Module):
    streams: int = 2

    @nn.compact
    def __call__(self, state, branch, ctx):
        return state + branch(state)


def experiment():
    return replace(tiny_lm.experiment(), "model.stack.block.residual", {})
"""


def mine(folder: Path, residual: str) -> str:
    """A config file with a component that is called as one of the project's."""
    (folder / "mine.py").write_text(MINE.format(residual), encoding="utf-8")
    return str(folder / "mine.py")


def homes(names: Any) -> dict[str, str]:
    return {name: value.__module__ for name, value in names.items()}


def test_everything_that_conforms_to_a_contract_of_an_experiment_is_a_part() -> None:
    fields = [
        kind
        for value in list_project_parts().values()
        if isinstance(value, type)
        for kind in read_annotations(value).values()
    ]
    contracts = {kind for one in fields for kind in (one, *get_args(one)) if is_contract(kind)} | set(KINDS)
    modules = [info.name for info in pkgutil.walk_packages(train.__path__, "train.")]
    found = {
        name: value
        for module in modules
        if not module.startswith(("train.data.builders.", "train.__main__"))
        for name, value in list_components(importlib.import_module(module)).items()
        if any(conforms(value, kind) for kind in contracts)
    }
    assert {"Text", "AdamW", "Cosine", "Classification", "Jit", "HuggingFace", "Classes"} <= found.keys()
    assert homes(found).items() <= homes(list_project_parts()).items(), (
        "a part lies outside of HOLDERS in train/spec/parts.py"
    )


def test_what_no_field_takes_is_no_part() -> None:
    names = list_project_parts()
    assert {"Masking", "Evaluation", "Experiment", "relu"} <= names.keys()  # in fields of a part
    assert not {"Context", "Decoding", "Rule", "Format", "Split", "Layer"} & names.keys()


def test_a_part_is_found_by_a_field_of_a_part() -> None:
    class Inner(NextToken):
        """Conforms to a contract as what it derives from."""

    @dataclasses.dataclass(frozen=True)
    class Outer:
        rate: Schedule
        both: tuple[Block | None, ...] = ()

    assert discover(Outer, [Cosine, Block, NextToken, Inner]).keys() == {"Outer", "Cosine", "Block"}


def test_two_parts_of_one_name_are_refused() -> None:
    twin = dataclasses.make_dataclass("Cosine", [], namespace={"build": Cosine.build})
    twin.__module__ = "train.schedules"
    with pytest.raises(
        InputError, match="Two parts are called Cosine, in train.optimizers.schedules and train.schedules; rename"
    ):
        discover(Experiment, [*(value for value in list_project_parts().values() if inspect.isclass(value)), twin])


def test_a_users_part_is_recorded_with_its_module(tmp_path: Path) -> None:
    experiment, names = load_config(mine(tmp_path, "HyperConnections(3)"), [])
    residual = part(encode(experiment), "model.stack.block.residual")
    assert residual == {"class": "HyperConnections", "from": "config_mine", "streams": 3}
    again = part(decode(encode(experiment), names), "model.stack.block.residual")
    assert type(again).__module__ == "config_mine"
    del residual["from"]
    with pytest.raises(
        InputError, match="of config_mine is called 'HyperConnections'; the one of models.residual.streams"
    ):
        decode(residual | {"from": "config_mine"}, list_project_parts())


def test_a_part_of_the_project_and_a_users_of_its_name_are_told_apart(tmp_path: Path) -> None:
    file = mine(tmp_path, "Theirs(streams=5)")
    experiment, names = load_config(file, [])
    assert part(experiment, "model.stack.block.residual") == HyperConnections(streams=5)
    told = [
        part(override(experiment, [f"model.stack.block.residual{text}"], names), "model.stack.block.residual")
        for text in ("=HyperConnections(4)", ".streams=3")
    ]
    assert [(type(value).__module__, value.streams) for value in told] == [
        ("config_mine", 4),
        ("models.residual.streams", 3),
    ]


def test_an_older_record_without_modules_is_read(tmp_path: Path) -> None:
    file = mine(tmp_path, "HyperConnections(3)")
    experiment, _ = load_config(file, [])
    path, data = tmp_path / "run" / "experiment.json", Recall().open()
    record(path.parent, experiment, file, data)
    assert read_run(tmp_path / "run").experiment == experiment
    data = json.loads(path.read_text(encoding="utf-8"))
    del data["experiment"]["model"]["stack"]["block"]["residual"]["from"]
    path.write_text(json.dumps(data), encoding="utf-8")
    assert read_run(tmp_path / "run").experiment == experiment


def test_a_class_of_another_file_stays_in_an_experiment_that_is_changed() -> None:
    class Elsewhere(nn.Module):
        heads: int = 2

        def __call__(self, x: jax.Array, ctx: Any) -> jax.Array:
            return x

    experiment, names = load_config("tiny_lm", [])
    given = replace(experiment, "model.stack.block.mixer", Elsewhere())
    changed = override(given, ["model.stack.block.mixer.heads=4"], names)
    assert part(changed, "model.stack.block.mixer") == Elsewhere(4)


ORDERS = [
    (["model.stack.block.mixer.heads=6", "model.stack.block.mixer.kv_heads=3"], ("heads", 6), ("kv_heads", 3)),
    (["model.stack.block.mixer.kv_heads=3", "model.stack.block.mixer.heads=6"], ("heads", 6), ("kv_heads", 3)),
    (["model.stack.block.mixer.window=5", "model.stack.block.mixer=Attention(2)"], ("heads", 2), ("window", 5)),
    (["model.stack.block.mixer=Attention(2)", "model.stack.block.mixer.window=5"], ("heads", 2), ("window", 5)),
    (["model.stack.block.mixer.heads=6", "model.stack.block.mixer.heads=4"], ("heads", 4), ("kv_heads", None)),
]


@pytest.mark.parametrize(("overrides", "first", "second"), ORDERS)
def test_overrides_are_applied_together(overrides: list[str], first: Any, second: Any) -> None:
    mixer = part(load_config("sentiment_bert", overrides)[0], "model.stack.block.mixer")
    assert isinstance(mixer, Attention)
    assert [(name, getattr(mixer, name)) for name, _ in (first, second)] == [first, second]


def test_a_refusal_names_the_overrides_that_it_is_about() -> None:
    mixer = "model.stack.block.mixer"
    with pytest.raises(InputError) as caught:
        load_config("sentiment_bert", ["batch_size=8", f"{mixer}.heads=6", f"{mixer}.kv_heads=4"])
    assert str(caught.value).startswith(f"{mixer}.heads=6 {mixer}.kv_heads=4: ")
    assert "batch_size" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "length"),
    [
        (["steps=5"], (5, None)),
        (["epochs=2"], (None, 2.0)),
        (["steps=5", "epochs=none"], (5, None)),
        (["steps=none", "epochs=2"], (None, 2.0)),
        (["epochs=2", "steps=none"], (None, 2.0)),
    ],
)
@pytest.mark.parametrize("config", ["sentiment_bert", "tiny_lm"])  # of epochs, and of steps
def test_a_length_takes_the_place_of_the_other(config: str, overrides: list[str], length: tuple[Any, Any]) -> None:
    experiment = load_config(config, overrides)[0]
    assert (experiment.steps, experiment.epochs) == length


def test_help_imports_no_part(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train.spec.parts", "train.spec", "train.experiment", "train.data.tasks.text"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "usage" in capsys.readouterr().out
    assert not {"train.spec.parts", "train.spec", "train.experiment", "train.data.tasks.text"} & sys.modules.keys()
    assert merge_names({}, {}) == {}
