"""Weights go into the structure they were trained in, or a warning says where it differs."""

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from models import bert, load_hf, replace, save_hf


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = bert.transformer(vocab=50, width=16, depth=1, heads=4, hidden=32, length=8)
    params = model.init(jax.random.key(0), {"tokens": jnp.zeros((1, 4), jnp.int32)})["params"]
    place = tmp_path_factory.mktemp("weights")
    save_hf(model, params, place)
    return place


@pytest.mark.parametrize(("path", "value"), [("stack.block.mixer.heads", 2), ("embed.norm.epsilon", 1e-3)])
def test_a_change_that_the_shapes_do_not_show_is_warned_of(
    folder: Path, path: str, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model, _ = load_hf(folder)
    with caplog.at_level(logging.WARNING, "morphax"):
        load_hf(folder, replace(model, path, value))
    assert path in caplog.text
    assert repr(value) in caplog.text


@pytest.mark.parametrize(
    ("path", "value"), [("stack.block.dropout", 0.3), ("stack.scan", True), ("stack.remat", "full")]
)
def test_what_computes_the_same_is_no_change(
    folder: Path, path: str, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model, _ = load_hf(folder)
    with caplog.at_level(logging.WARNING, "morphax"):
        load_hf(folder, replace(model, path, value))
    assert not caplog.text
