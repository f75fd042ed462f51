"""The command that a finished run is used with."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from train.config import list_configs, load_config
from train.data.tasks.synthetic import Recall, SelectiveCopy
from train.use.hint import suggest_command

CONTINUED = {"tiny_lm", "lm_shakespeare", "lm_tpu"}
RULED = {"recall", "selective_copy"}


@dataclasses.dataclass
class Text:
    """Data with a tokenizer."""

    tokens: Any = "bytes"


@pytest.mark.parametrize("name", list_configs())
def test_each_config_is_used_with_the_command_of_its_kind(name: str) -> None:
    experiment, _ = load_config(name, [])
    data: Any = experiment.data.open() if isinstance(experiment.data, Recall | SelectiveCopy) else Text()
    said = suggest_command(experiment, data, Path("runs/a b"))
    kind = "generate" if name in CONTINUED else "eval" if name in RULED else "predict"
    rest = {"generate": " PROMPT", "predict": " INPUT", "eval": ""}[kind]
    assert said == f"morphax {kind} 'runs/a b'{rest}"


def test_data_without_a_tokenizer_is_not_continued() -> None:
    data: Any = object()
    assert suggest_command(load_config("tiny_lm", [])[0], data, Path("runs/lm")) == "morphax predict runs/lm INPUT"
