"""Malformed weights end in one sentence before anything is compiled or written."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.conftest import CONFIG, Malformed

WEIGHTS = "train config.py --run new \"initial=HuggingFace('weights')\""


def settings(**changes: object) -> Callable[[Path], object]:
    """Changes a JSON file; a value of None removes a key."""

    def change(path: Path) -> None:
        kept = {name: value for name, value in (json.loads(path.read_text()) | changes).items() if value is not None}
        path.write_text(json.dumps(kept))

    return change


def tensors(**changes: np.ndarray | None) -> Callable[[Path], object]:
    """Changes tensors of a file, with __ for the dots of a name; None removes one."""

    def change(path: Path) -> None:
        new = load_file(path) | {name.replace("__", "."): value for name, value in changes.items()}
        save_file({name: value for name, value in new.items() if value is not None}, path, metadata={"format": "pt"})

    return change


def cut(size: int) -> Callable[[Path], object]:
    """Leaves the first bytes of a file."""
    return lambda path: path.write_bytes(path.read_bytes()[:size])


def damaged_header(path: Path) -> None:
    """Spoils the JSON at the start of a safetensors file."""
    whole = path.read_bytes()
    path.write_bytes(whole[:8] + b"?" + whole[9:])


CASES = (
    Malformed(
        "weights absent",
        "train config.py \"initial=HuggingFace('absent')\"",
        r"absent has no config\.json; give a folder",
    ),
    Malformed(
        "weights of an unknown package",
        "train config.py \"initial=HuggingFace('package:nope/model')\"",
        r"No published package is called 'nope'; valid",
    ),
    Malformed("settings absent", WEIGHTS, r"weights has no config\.json; give a folder", {"weights/config.json": None}),
    Malformed("settings that are no JSON", WEIGHTS, r"weights/config\.json is not JSON", {"weights/config.json": "{"}),
    Malformed(
        "settings that are a list", WEIGHTS, r"weights/config\.json holds a list.*object", {"weights/config.json": "[]"}
    ),
    Malformed(
        "another kind of model",
        WEIGHTS,
        r"model_type 'gpt2'; known are bert",
        {"weights/config.json": settings(model_type="gpt2")},
    ),
    Malformed(
        "no kind of model",
        WEIGHTS,
        r"model_type None; known are bert",
        {"weights/config.json": settings(model_type=None)},
    ),
    Malformed(
        "settings that lack a key",
        WEIGHTS,
        r"weights do not fit this model: 1 misshapen: embeddings\.position_embeddings\.weight gives \(47,"
        r" 16\).*initial\.fit=true",
        {
            "weights/config.json": settings(max_position_embeddings=None),
            "weights/model.safetensors": tensors(
                embeddings__position_embeddings__weight=np.zeros((47, 16), np.float32)
            ),
        },
    ),
    Malformed(
        "a setting of another type",
        "train own.py --run new",
        r"own\.py.*config\.json cannot be used: hidden_act is \[2\]; it must be one of gelu, ",
        {
            "own.py": CONFIG.replace("BODY =", "import models\nBODY = models.load_hf('weights')[0] #"),
            "weights/config.json": settings(hidden_act=[2]),
        },
    ),
    Malformed(
        "settings with a number without end",
        WEIGHTS,
        r"weights/config\.json is not JSON",
        {"weights/config.json": '{"hidden_size": 1' + "0" * 5000 + "}"},
    ),
    Malformed(
        "settings nested without end",
        WEIGHTS,
        r"weights/config\.json is not JSON",
        {"weights/config.json": "[" * 100_000},
    ),
    Malformed(
        "no tensors",
        WEIGHTS,
        r"weights has no model\.safetensors; pickled.*safe_serialization",
        {"weights/model.safetensors": None},
    ),
    Malformed(
        "tensors cut short",
        WEIGHTS,
        r"model\.safetensors cannot be read as safetensors.*download or save it again",
        {"weights/model.safetensors": cut(500)},
    ),
    Malformed(
        "tensors of nothing",
        WEIGHTS,
        r"model\.safetensors cannot be read as safetensors.*download or save it again",
        {"weights/model.safetensors": ""},
    ),
    Malformed(
        "tensors with a damaged header",
        WEIGHTS,
        r"model\.safetensors cannot be read as safetensors.*download or save it again",
        {"weights/model.safetensors": damaged_header},
    ),
    Malformed(
        "tensors missing, misshapen and unexpected",
        WEIGHTS,
        r"weights do not fit this model: 1 misshapen: embeddings\.word_embeddings\.weight gives \(9, 16\) .*\(256,"
        r" 16\);"
        r" 1 missing: embed/norm/bias; 1 unexpected: encoder\.layer\.7\.extra",
        {
            "weights/model.safetensors": tensors(
                embeddings__word_embeddings__weight=np.zeros((9, 16), np.float32),
                embeddings__LayerNorm__bias=None,
                encoder__layer__7__extra=np.zeros(1, np.float32),
            )
        },
    ),
    Malformed(
        "index of shards damaged",
        WEIGHTS,
        r"model\.safetensors\.index\.json.*weight_map",
        {"weights/model.safetensors": None, "weights/model.safetensors.index.json": "{}"},
    ),
    Malformed(
        "index of shards that is no JSON",
        WEIGHTS,
        r"model\.safetensors\.index\.json.*weight_map",
        {"weights/model.safetensors": None, "weights/model.safetensors.index.json": "{"},
    ),
    Malformed(
        "shard absent",
        WEIGHTS,
        r"part-2\.safetensors cannot be read",
        {
            "weights/model.safetensors": None,
            "weights/model.safetensors.index.json": '{"weight_map": {"x": "part-2.safetensors"}}',
        },
    ),
    Malformed("weights of another depth", f"{WEIGHTS} model.stack.repeats=2", r"missing: stack/layer_1/"),
)


@pytest.mark.represented_by(
    "weights-absent",
    "settings-absent",
    "settings-that-are-a-list",
    "another-kind-of-model",
    "a-setting-of-another-type",
    "tensors-cut-short",
    "tensors-missing,-misshapen-and-unexpected",
    "shard-absent",
)
@pytest.mark.parametrize("case", CASES, ids=[case.name.replace(" ", "-") for case in CASES])
def test_malformed_weights_are_one_sentence_and_change_nothing(
    case: Malformed, refused: Callable[[Malformed], str]
) -> None:
    assert re.search(case.sentence, refused(case))
