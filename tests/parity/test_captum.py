"""Attributions of a small BERT, against Captum's of the same weights in PyTorch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from captum.attr import InputXGradient, IntegratedGradients, Occlusion

from models import load_hf
from models.inspect.saliency import gradient_times_input, integrated_gradients, occlude
from tests.parity.weights import ragged, saved, tiny

INPUTS = ragged()
CLASS = 1


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """The BERT of PyTorch, and ours of its weights."""
    theirs = tiny(transformers.BertForSequenceClassification)
    model, params = load_hf(saved(theirs, tmp_path_factory.mktemp("bert")))
    return theirs, model, params


def score(logits: jax.Array) -> jax.Array:
    return logits[:, CLASS]


def ours(method: Any, both: Any, **options: Any) -> np.ndarray:
    names = {"tokens": "input_ids", "segments": "attention_mask", "types": "token_type_ids"}
    batch = {name: jnp.asarray(INPUTS[key]) for name, key in names.items()}
    return np.asarray(jax.jit(lambda params: method(both[1], params, batch, score, **options))(both[2]))


def theirs(method: Any, both: Any, **options: Any) -> np.ndarray:
    """Of the embeddings as they enter the first layer."""
    model = both[0]
    tensors = {name: torch.tensor(value) for name, value in INPUTS.items()}
    embedded = model.bert.embeddings(tensors["input_ids"], tensors["token_type_ids"]).detach()
    mask = (1.0 - tensors["attention_mask"].float())[:, None, None] * torch.finfo(torch.float32).min

    def forward(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = model.bert.encoder(x, attention_mask=mask)[0]
        return model.classifier(model.bert.pooler(hidden))

    found = method(forward).attribute(embedded, target=CLASS, additional_forward_args=(mask,), **options)
    return found.detach().numpy()


def assert_close(left: np.ndarray, right: np.ndarray) -> None:
    np.testing.assert_allclose(left, right, atol=1e-4 * np.abs(right).max())
    assert np.abs(right).max() > 1e-2


def test_integrated_gradients_are_captums(both: Any) -> None:
    left = ours(integrated_gradients, both, steps=20, baseline=0.1)
    assert_close(left, theirs(IntegratedGradients, both, n_steps=20, baselines=0.1))


def test_gradient_times_input_is_captums(both: Any) -> None:
    assert_close(ours(gradient_times_input, both), theirs(InputXGradient, both))


@pytest.mark.parametrize("width", [1, 3])
def test_occlusion_is_captums(both: Any, width: int) -> None:
    left = ours(occlude, both, width=width, baseline=0.1)
    right = theirs(Occlusion, both, sliding_window_shapes=(width, 24), baselines=0.1)
    assert_close(left[..., None] * np.ones(24), right)
