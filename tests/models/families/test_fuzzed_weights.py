"""Hugging Face folders spoiled by chance: each loads, or is refused in one sentence."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from models import bert, load_hf, save_hf
from train.errors import InputError, convert_errors
from train.weights import HuggingFace

MODEL = bert.classifier(2, bert.transformer(vocab=40, width=8, depth=1, heads=2, hidden=16, length=12))
WRONG: tuple[Any, ...] = (
    *("", "gelu", "24", "many"),
    *([], [2], ["BertModel"], [[]], [None], {}, {"a": 1}, {"0": ["x"]}),
    *(None, True, False),
    *(0, -1, 3, 7, 10**6, 10**12, 10**30, 10**400, -(10**400)),
    *(0.0, 0.5, 24.0, 1e-300, -0.5, 1e300, float("nan"), float("inf"), float("-inf")),
)
KEY = jax.random.key(0)
MORE = (
    "is_decoder",
    "add_cross_attention",
    "tie_word_embeddings",
    "num_labels",
    "problem_type",
    "classifier_dropout",
    "id2label",
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("fuzzed") / "weights"
    params = jax.jit(MODEL.init)(jax.random.key(0), {"tokens": jnp.zeros((1, 2), jnp.int32)})["params"]
    save_hf(MODEL, params, place)
    return place


@pytest.fixture
def spoiled(weights: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the folder with another config or other bytes."""

    def copy(config: Any = None, tensors: bytes | None = None) -> Path:
        settings = (weights / "config.json").read_text() if config is None else json.dumps(config)
        (tmp_path / "config.json").write_text(settings)
        (tmp_path / "model.safetensors").write_bytes(
            (weights / "model.safetensors").read_bytes() if tensors is None else tensors
        )
        return tmp_path

    return copy


def loads(folder: Path) -> tuple[bool, bool, bool]:
    """Whether it loads as it is described, into a model, and what fits into it; each refusal is one short sentence."""
    found: list[bool] = []
    for load in (
        load_hf,
        lambda place: HuggingFace(str(place)).load(MODEL, KEY),
        lambda place: HuggingFace(str(place), True).load(MODEL, KEY),
    ):
        said = ""
        try:
            with convert_errors():
                load(folder)
        except InputError as error:
            said = str(error)
        assert not said or re.fullmatch(r".{20,1500}\.", said)  # one line
        found.append(not said)
    described, strict, fit = found
    return described, strict, fit


@pytest.mark.represented_by(*map(str, range(20)))
@pytest.mark.parametrize("seed", range(60))
def test_wrong_values_in_a_config_load_or_are_one_sentence(
    seed: int, weights: Path, spoiled: Callable[..., Path]
) -> None:
    chance = random.Random(seed)
    config = json.loads((weights / "config.json").read_text())
    keys = sorted({*config, *MORE} - {"label2id", "pad_token_id"})
    first = keys[seed % len(keys)]  # each key at least once, alone or with others
    for key in (first, *chance.sample(keys, chance.choice((0, 0, 2)))):
        config[key] = chance.choice(WRONG)
    loads(spoiled(config))


@pytest.mark.parametrize(
    "key", ["hidden_size", "layer_norm_eps", "hidden_act", "architectures", "id2label", "hidden_dropout_prob"]
)
@pytest.mark.parametrize("value", [[2], -1, {"a": []}, float("nan")], ids=str)
def test_a_value_of_another_type_is_named_with_its_key(
    key: str, value: Any, weights: Path, spoiled: Callable[..., Path]
) -> None:
    if key == "id2label" and isinstance(value, dict):
        value = "names"
    config = json.loads((weights / "config.json").read_text()) | {key: value}
    with pytest.raises(InputError, match=rf"config\.json cannot be used: {key} is .*; it must be"), convert_errors():
        load_hf(spoiled(config))


@pytest.mark.represented_by(*map(str, range(20)))
@pytest.mark.parametrize("seed", range(60))
def test_damaged_tensors_load_or_are_one_sentence(seed: int, weights: Path, spoiled: Callable[..., Path]) -> None:
    chance, whole = random.Random(seed), bytearray((weights / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(whole[:8], "little")
    match seed % 4:
        case 0:
            del whole[chance.randrange(len(whole)) :]
        case 1:
            for _ in range(chance.choice((1, 3, 20))):
                whole[chance.randrange(header)] = chance.randrange(256)
        case 2:
            for _ in range(chance.choice((1, 50))):
                whole[chance.randrange(header, len(whole))] = chance.randrange(256)
        case _:
            place, other = (
                chance.randrange(8, header),
                chance.choice((b"BF16", b"I64 ", b"null", b"-1,0", b"[[[[", b"\xff\xff\xff\xff")),
            )
            whole[place : place + 4] = other
    described, strict, fit = loads(spoiled(tensors=bytes(whole)))
    assert fit or not strict
    assert strict == described
