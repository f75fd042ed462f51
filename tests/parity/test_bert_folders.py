"""Parity of unusual BERT folders: a decoder of its own, the decoder's bias under its other name, keys left out, narrow
floats.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from safetensors.torch import save_file as save_torch

from models import bert, load_hf, replace, save_hf
from models.families.folder import read_hf
from tests.parity.weights import BODY, ours_on, ragged, random_params, rewritten, saved, theirs_on, tiny

DECODER, BIAS, OTHER_BIAS = "cls.predictions.decoder.weight", "cls.predictions.bias", "cls.predictions.decoder.bias"
EMBEDDING = "bert.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A masked language model with its own decoder, and its logits."""
    model = tiny(transformers.BertForMaskedLM, tie_word_embeddings=False)
    return saved(model, tmp_path_factory.mktemp("untied")), theirs_on(model, ragged())


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tiny(transformers.BertForMaskedLM), tmp_path_factory.mktemp("masked"))


def reset(folder: Path, **changes: Any) -> Path:
    """The folder with keys of its config changed, or left out where None."""
    settings = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(
        json.dumps({key: value for key, value in settings.items() if value is not None})
    )
    return folder


def assert_same_logits(folder: Path, expected: np.ndarray, model: Any = None) -> None:
    loaded, params = load_hf(folder, model)
    real = ragged()["attention_mask"] > 0
    np.testing.assert_allclose(ours_on(loaded, params, ragged())[real], expected[real], atol=1e-4)
    assert np.abs(expected[real]).max() > 1e-2


def test_an_untied_decoder_is_used(untied: tuple[Path, np.ndarray]) -> None:
    folder, logits = untied
    tensors = load_file(folder / "model.safetensors")
    assert np.abs(tensors[DECODER] - tensors[EMBEDDING]).max() > 0.1
    assert_same_logits(folder, logits)
    loaded = read_hf(folder)
    assert loaded.model == bert.masked_lm(replace(loaded.model, "head", None), tied=False)
    assert loaded.fresh == ()


def test_a_decoder_that_differs_is_used_though_the_config_ties_it_as_transformers_does(
    untied: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    folder = reset(rewritten(untied[0], tmp_path / "copy", lambda tensors: tensors), tie_word_embeddings=None)
    theirs = transformers.BertForMaskedLM.from_pretrained(folder).eval()
    assert_same_logits(folder, theirs_on(theirs, ragged()))
    assert_same_logits(folder, untied[1])


def test_a_tied_head_leaves_an_own_decoder_unused_and_says_so(untied: tuple[Path, np.ndarray]) -> None:
    loaded = read_hf(untied[0], bert.masked_lm(replace(read_hf(untied[0]).model, "head", None)))
    assert DECODER in loaded.unused


def test_the_decoder_bias_under_its_other_name_is_loaded(masked: Path, tmp_path: Path) -> None:
    def other(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {OTHER_BIAS if name == BIAS else name: value for name, value in tensors.items()}

    folder = rewritten(masked, tmp_path / "other", other)
    assert read_hf(folder).fresh == read_hf(folder).unused == ()
    theirs = transformers.BertForMaskedLM.from_pretrained(folder).eval()
    assert_same_logits(folder, theirs_on(theirs, ragged()))
    np.testing.assert_array_equal(load_hf(folder)[1]["head"]["bias"], load_hf(masked)[1]["head"]["bias"])


def test_an_own_decoder_of_a_tied_folder_starts_as_the_embedding(masked: Path) -> None:
    model = bert.masked_lm(replace(read_hf(masked).model, "head", None), tied=False)
    loaded = read_hf(masked, model)
    assert loaded.fresh == ()
    np.testing.assert_array_equal(loaded.params["head"]["table"], loaded.params["embed"]["token"])
    assert loaded.params["head"]["table"] is not loaded.params["embed"]["token"]


def test_an_untied_model_is_saved_as_transformers_reads_it(tmp_path: Path) -> None:
    model = bert.masked_lm(BODY, tied=False)
    params = random_params(model)
    save_hf(model, params, tmp_path)
    owner: Any = transformers.BertForMaskedLM
    theirs, loading = owner.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same_logits(tmp_path, theirs_on(theirs.eval(), ragged()))
    assert load_hf(tmp_path)[0] == model


def test_every_key_left_out_takes_the_default_of_transformers() -> None:
    theirs = transformers.BertConfig().to_dict()
    assert bert.from_config({"model_type": "bert"}) == bert.from_config(theirs) == bert.base()
    for architecture in ("BertForSequenceClassification", "BertForMaskedLM"):
        named = {"architectures": [architecture]}
        assert bert.from_config(named) == bert.from_config(theirs | named)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_other_floats_load_as_their_values(kind: torch.dtype, masked: Path, tmp_path: Path) -> None:
    theirs = {name: torch.tensor(value).to(kind) for name, value in load_file(masked / "model.safetensors").items()}
    save_torch(theirs, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((masked / "config.json").read_text())
    loaded = load_hf(tmp_path)[1]["embed"]["token"]
    np.testing.assert_array_equal(loaded, theirs[EMBEDDING].float().numpy())


def test_quantised_weights_and_values_that_are_not_finite_are_refused_by_name(masked: Path, tmp_path: Path) -> None:
    def spoil(value: np.ndarray) -> Any:
        return lambda tensors: tensors | {EMBEDDING: value}

    whole = rewritten(masked, tmp_path / "whole", spoil(np.ones((50, 24), np.int8)))
    with pytest.raises(ValueError, match=rf"{EMBEDDING} as I8; save the weights as one of F64, F32, F16, BF16"):
        load_hf(whole)
    endless = rewritten(masked, tmp_path / "endless", spoil(np.full((50, 24), np.inf, np.float32)))
    with pytest.raises(ValueError, match=rf"{EMBEDDING} that are not finite"):
        load_hf(endless)


def test_a_tensor_under_two_names_is_refused(masked: Path, tmp_path: Path) -> None:
    def twice(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return tensors | {EMBEDDING.removeprefix("bert."): tensors[EMBEDDING] + 1}

    with pytest.raises(ValueError, match="hold under two names what is one"):
        load_hf(rewritten(masked, tmp_path / "twice", twice))
