"""The benchmarks beside PyTorch, at the size of toys: both programs work on the same."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from tests.benchmarks import data, images, measure


def test_both_vision_transformers_have_as_many_parameters_and_take_a_step() -> None:
    size = images.Size(width=64, depth=2, heads=4, patch=8, side=16, rows=2, times=1, classes=7)
    counts: list[int] = []
    for start in images.STARTS.values():
        once, count = start(size)
        once()
        counts.append(count)
    assert counts[0] == counts[1]


def test_both_read_as_many_tokens_of_a_file_but_for_line_feeds_and_rests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(tmp_path))
    size = data.Size(texts=60, words=40, length=32, rows=4, vocab=400)
    ours, theirs = (start(size, tmp_path)[0] for start in data.STARTS.values())
    once, again = ours(), ours()
    assert once == again > 60 * 20
    assert 0 <= once - theirs() <= 60 + 2 * 32


def test_every_mixer_of_the_catalogue_can_be_measured() -> None:
    row = jax.ShapeDtypeStruct((1, 512, measure.WIDTH), jnp.float32)
    known = measure.mixers()
    for name, layer in known.items():
        sized = measure.fitted(layer, 512)
        params = jax.eval_shape(functools.partial(measure.start, sized), row)
        assert jax.eval_shape(functools.partial(measure.output, sized), params, row).shape == row.shape, name
    assert measure.kept_bytes(known["Engram"], 512) is not None
