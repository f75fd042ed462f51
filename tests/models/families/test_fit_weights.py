"""A pretrained model cut open: what fits a changed structure is loaded, what is fresh and what is unused is listed,
short.
"""

import json
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models import GLU, LinearAttention, RMSNorm, bert, load_hf, part, replace, save_hf, unrolled
from models.families.folder import read_hf
from train.cli import main
from train.weights import HuggingFace

BODY = bert.transformer(vocab=256, width=16, depth=4, heads=2, hidden=32, length=48)
BLOCK = part(BODY, "stack.block")
OTHER = replace(BLOCK, "mixer", LinearAttention(heads=2))
CUTS = {
    "half the layers": replace(BODY, "stack.repeats", 2),
    "another mixer in every second layer, scanned": replace(
        replace(replace(BODY, "stack.block", (BLOCK, OTHER)), "stack.repeats", 2), "stack.scan", True
    ),
    "another mixer in the first layer": replace(replace(BODY, "stack.prefix", (OTHER,)), "stack.repeats", 3),
    "another norm": replace(BODY, "stack.block.residual.norm", RMSNorm()),
    "a gated feedforward": replace(BODY, "stack.block.feedforward", GLU(2)),
    "one layer for all": replace(BODY, "stack.tied", True),
    "fewer positions": replace(BODY, "embed.position.length", 20),
    "a larger vocabulary": replace(BODY, "embed.vocab", 300),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a classifier of five classes."""
    place, model = tmp_path_factory.mktemp("cut") / "weights", bert.classifier(5, BODY)
    save_hf(model, drawn(model), place)
    return place


def drawn(model: Any) -> Any:
    """Parameters that differ everywhere."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), {"tokens": jax.ShapeDtypeStruct((1, 2), jnp.int32)})[
        "params"
    ]
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(draw.standard_normal(leaf.shape), jnp.float32), shapes)


def flat(params: Any, model: Any) -> dict[str, np.ndarray]:
    """Parameters by path, with layers counted from the first block."""
    loop = {**params, "stack": unrolled(params["stack"], model.stack)}
    first, found = len(model.stack.prefix), {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(loop):
        words = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        if words[1].startswith("layer_"):
            words[1] = f"layer_{first + int(words[1][6:])}"
        found["/".join(words).replace("first_", "layer_").replace("tied/block_", "layer_")] = np.asarray(leaf)
    return found


@pytest.mark.represented_by(
    "another mixer in every second layer, scanned", "a gated feedforward", "one layer for all", "fewer positions"
)
@pytest.mark.parametrize("cut", CUTS)
def test_everything_that_fits_is_loaded_and_the_rest_is_listed(cut: str, folder: Path) -> None:
    model, original = CUTS[cut], flat(read_hf(folder).params, bert.classifier(5, BODY))
    loaded = read_hf(folder, model, fit=True)
    params = flat(loaded.params, model)
    rows = part(model, "embed.position.length")
    expected = original | {"embed/position/table": original["embed/position/table"][:rows]}
    fits = {path for path, leaf in params.items() if path in expected and expected[path].shape == leaf.shape}
    same = {path for path in fits if np.array_equal(params[path], expected[path])}
    assert fits == same
    assert len(params) - len(fits) == len(loaded.fresh)
    tensors = load_file(folder / "model.safetensors")
    assert len(tensors) - len(fits) == len(loaded.unused)
    if rows >= 48:
        with pytest.raises(
            ValueError, match=r"do not fit this model: .* set initial\.fit=true \(in Python fit=True\)\.$"
        ) as caught:
            read_hf(folder, model)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1300


def test_a_head_of_another_size_is_fresh_on_request_and_the_sentence_that_refuses_says_how(folder: Path) -> None:
    model = bert.classifier(2, BODY)
    with pytest.raises(ValueError, match=r"2 misshapen: classifier.*\(5,\).*set initial\.fit=true"):
        read_hf(folder, model)
    loaded = read_hf(folder, model, fit=True)
    assert set(loaded.fresh) == {"head/out/kernel", "head/out/bias"}
    assert set(loaded.unused) == {"classifier.weight", "classifier.bias"}


def retold(folder: Path, place: Path, rename: dict[str, str], **config: Any) -> Path:
    """The folder with its tensors renamed, or left out for an empty name, and keys of its config changed."""
    place.mkdir()
    tensors = {rename.get(name, name): value for name, value in load_file(folder / "model.safetensors").items()}
    save_file({name: value for name, value in tensors.items() if name}, place / "model.safetensors")
    (place / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | config))
    return place


NO_POOLER = {"bert.pooler.dense.weight": "", "bert.pooler.dense.bias": ""}


def test_a_head_of_another_task_is_unused(folder: Path, tmp_path: Path) -> None:
    names = NO_POOLER | {"classifier.weight": "qa_outputs.weight", "classifier.bias": "qa_outputs.bias"}
    asked = retold(folder, tmp_path / "qa", names, architectures=["BertForQuestionAnswering"])
    for model in (None, BODY, bert.classifier(2, BODY)):
        loaded = read_hf(asked, model)
        assert set(loaded.unused) == {"qa_outputs.weight", "qa_outputs.bias"}
        assert all(path.startswith("head/") for path in loaded.fresh)


@pytest.mark.parametrize("classes", [2, 5])
def test_a_taggers_head_is_no_classifiers_though_it_may_have_its_shape(
    classes: int, folder: Path, tmp_path: Path
) -> None:
    tagger = retold(folder, tmp_path / "ner", NO_POOLER, architectures=["BertForTokenClassification"])
    with pytest.raises(
        ValueError, match=r"2 of another task: classifier\.weight, classifier\.bias; .*initial\.fit=true"
    ):
        read_hf(tagger, bert.classifier(classes, BODY))
    loaded = read_hf(tagger, bert.classifier(classes, BODY), fit=True)
    assert set(loaded.unused) == {"classifier.weight", "classifier.bias"}
    assert len(loaded.fresh) == 4


def test_weights_of_which_nothing_fits_are_refused(folder: Path) -> None:
    other = bert.transformer(vocab=99, width=20, depth=1, heads=2, hidden=24, length=9)
    with pytest.raises(ValueError, match="nothing fits this model"):
        read_hf(folder, replace(other, "stack.block.feedforward.expand", 3.0), fit=True)


def test_load_hf_warns_of_what_is_fresh_and_unused_in_a_line_with_layers_joined(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "morphax"):
        load_hf(folder, CUTS["a gated feedforward"], fit=True)
    (changed, told) = [record.getMessage() for record in caplog.records]
    assert "stack.block.feedforward is GLU(...) and was MLP(...)" in changed
    assert (
        "freshly initialised stack/layer_0-3/feedforward/gate/kernel; unused"
        " bert.encoder.layer.0-3.intermediate.dense.bias" in told
    )


@pytest.mark.slow
def test_the_command_line_cuts_a_model_open_and_console_and_summary_say_what_is_new(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    monkeypatch.chdir(sound)
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))
    initial = [
        "initial=HuggingFace('weights')",
        "model.stack.block.mixer=LinearAttention(heads=2)",
        "--run",
        str(tmp_path / "run"),
    ]
    assert main(["train", "config.py", *initial, "model.stack.block.residual.norm=RMSNorm()"]) == 2
    assert "set initial.fit=true" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["train", "config.py", *initial, "model.stack.block.residual.norm=RMSNorm()", "initial.fit=true"]) == 0
    err = capsys.readouterr().err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    lost = "encoder.layer.0.attention.output.LayerNorm.bias"
    assert lost in summary["unused"]
    assert "head/out/kernel" in summary["fresh"]
    assert not any("mixer/query" in path for path in summary["fresh"])
    plan = next(line for line in err.splitlines() if "1 initialise" in line)
    assert "fresh: head/out/bias, head/out/kernel" in plan
    assert f"unused: {lost}" in plan
    assert "fresh" in err.split("evaluation at")[1]
    assert lost in (tmp_path / "run" / "report.html").read_text()


def test_weights_of_text_do_not_load_into_a_model_of_pictures(folder: Path) -> None:
    from configs import images_vit

    with pytest.raises(ValueError, match="These weights are a text model's.*'image'"):
        HuggingFace(str(folder)).load(images_vit.experiment().model, jax.random.key(0))
