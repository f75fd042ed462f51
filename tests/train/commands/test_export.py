"""Artefacts of `morphax export` run without this project, and give the outputs of the run."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from models import load_hf
from tests.conftest import Malformed
from tests.places import CONFIGS
from train.cli import main
from train.engine.folder import open_run
from train.use.delivery import Delivery, Program
from train.use.evaluate import evaluate
from train.use.formats import Format, list_formats, safetensors

# In a process of its own: runs what is written as it says, then on other numbers of rows and of tokens.
ALONE = """
import json, runpy, sys
import numpy as np

known = runpy.run_path("run.py")
model, weights, inputs = known["model"], known["weights"], known["inputs"]
expected = {name[len("outputs/"):]: value for name, value in known["example"].items() if name.startswith("outputs/")}
said = json.load(open("export.json"))


def compare(change, back=lambda value: value):
    outputs = model.call(weights, {name: change(value) for name, value in inputs.items()})
    return max(float(np.abs(np.asarray(value) - back(expected[name])).max()) for name, value in outputs.items())


apart = {"as it is": compare(lambda value: value)}
if "b" in said["symbolic"]:
    apart["one row"] = compare(lambda value: value[:1], lambda value: value[:1])
    apart["many rows"] = compare(lambda value: np.concatenate([value] * 3), lambda value: np.concatenate([value] * 3))
if "t" in said["symbolic"]:  # fewer tokens, and one more, which is refused
    apart["fewer tokens"] = compare(
        lambda value: value[:, :-2], lambda value: value[:, :-2] if value.ndim == 3 else value
    )
    try:
        model.call(weights, {name: np.pad(value, ((0, 0), (0, 1))) for name, value in inputs.items()})
    except ValueError:
        apart["too long"] = 0.0
ours = {"models", "train", "configs", "flax", "optax", "tests"}
print(json.dumps({"apart": apart, "ours": sorted(ours & {name.partition(".")[0] for name in sys.modules})}))
"""


def exported(run: Path, out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    """Exports a run; returns the JSON that the command prints."""
    capsys.readouterr()
    assert main(["export", str(run), str(out), "--json", *more]) == 0
    said = json.loads(capsys.readouterr().out)
    assert json.loads((out / "export.json").read_text(encoding="utf-8")) == {
        name: value for name, value in said.items() if name != "folder"
    }
    assert said["checked"]["largest"] > 0
    assert said["checked"][said["checked"]["judged"]] <= said["checked"]["tolerance"]
    return said


def run_alone(out: Path, said: Mapping[str, Any]) -> dict[str, float]:
    """The largest differences from the run in a process that imports jax and numpy alone."""
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=out, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"{name} (" in done.stdout for name in said["outputs"])
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ours"] == []
    return found["apart"]


def test_a_program_gives_the_outputs_of_the_run_with_jax_and_numpy_alone(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = exported(sound / "run", tmp_path / "out", capsys)
    assert set(said["inputs"]) == {"tokens", "segments", "positions"}
    assert said["inputs"]["tokens"]["shape"] == ["b", "t"]
    assert said["outputs"] == {"outputs": {"dtype": "float32", "shape": ["b", 2]}}
    assert said["classes"] == ["bad", "good"]
    apart = run_alone(tmp_path / "out", said)
    assert set(apart) == {"as it is", "one row", "many rows", "fewer tokens", "too long"}
    assert max(apart.values()) <= said["checked"]["tolerance"]
    assert len((tmp_path / "out" / "run.py").read_text(encoding="utf-8").splitlines()) <= 10


def test_weights_are_written_by_path_and_as_a_folder_of_hugging_face(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(sound / "run", tmp_path / "paths", capsys, "--to", "safetensors")
    exported(sound / "run", tmp_path / "hf", capsys, "--to", "hf")
    model, params = load_hf(tmp_path / "hf")
    with np.load(tmp_path / "hf" / "example.npz") as file:
        example = dict(file)
    batch = {name.removeprefix("inputs/"): value for name, value in example.items() if name.startswith("inputs/")}
    outputs: Any = model.apply({"params": params}, batch)
    np.testing.assert_allclose(outputs, example["outputs/outputs"], atol=1e-6)
    head = load_file(tmp_path / "paths" / "model.safetensors")["head/out/kernel"]
    np.testing.assert_array_equal(head, params["head"]["out"]["kernel"])
    config = json.loads((tmp_path / "hf" / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "bad", "1": "good"}


def test_what_gives_other_outputs_than_the_run_ends_with_code_1_and_stays(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(delivery: Delivery, folder: Path) -> Program:
        right = safetensors.load(delivery, folder)
        return lambda batch: {name: value + 1e-3 for name, value in right(batch).items()}

    monkeypatch.setitem(list_formats(), "wrong", Format("wrong", "", safetensors.write, load))
    assert main(["export", str(sound / "run"), str(tmp_path / "out"), "--to", "wrong"]) == 1
    said = capsys.readouterr()
    assert re.search(r"morphax: .*out does not give the outputs of the run: they differ by 0\.0010", said.err)
    assert "is 0.001, of outputs up to" in said.out
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.slow
def test_weights_in_int8_are_a_quarter_and_their_cost_is_measured(
    learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    exported(learned, whole, capsys)
    said = exported(learned, out, capsys, "--quantize", "int8")
    assert max(run_alone(out, said).values()) <= 1.5 * said["checked"]["difference"]
    assert (out / "weights.npz").stat().st_size < 0.75 * (whole / "weights.npz").stat().st_size  # small arrays
    sizes = said["quantized"]
    assert sizes["written"] == sum((out / name).stat().st_size for name in ("weights.npz", "model.stablehlo", "run.py"))
    with np.load(out / "weights.npz") as file, np.load(whole / "weights.npz") as exact:
        assert sizes["weights"] == sum(exact[name].nbytes for name in exact)
        codes = {name for name in file if file[name].dtype == np.int8}
        assert {f"{name}.scale" for name in codes} == set(file) - set(exact)
        for name in codes:
            scales = file[f"{name}.scale"]
            assert (np.abs(exact[name] - file[name] * scales) <= 0.5001 * scales).all()
    known = evaluate(learned, open_run(learned))["evaluation"]
    for name, by in sizes["metrics"].items():
        assert by["run"]["value"] == pytest.approx(known[name]["value"], rel=1e-4)
        assert by["run"]["interval"] == pytest.approx(known[name]["interval"], rel=1e-3)
    now, then = (sizes["metrics"]["loss"][who]["value"] for who in ("delivered", "run"))
    assert 1e-7 < abs(now - then) < 0.01
    assert main(["export", str(learned), str(tmp_path / "again"), "--quantize", "int8"]) == 0
    assert re.search(rf"test +loss {now:.4f} ± .*; of the run {then:.4f} ± ", capsys.readouterr().out)


@pytest.mark.slow
def test_weights_in_int8_that_are_too_far_from_the_run_are_not_called_written(
    learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.use.delivery.CODES", 7)  # four bits
    assert main(["export", str(learned), str(tmp_path / "out"), "--quantize", "int8"]) == 1
    said = capsys.readouterr()
    assert "is in" not in said.out
    assert re.search(r"does not give the outputs of the run: they differ by 0\.\d+ and 0\.01 is allowed", said.err)


def other_structure(file: Path) -> None:
    """The run's layers see four tokens to each side, which changes no parameter."""
    said = json.loads(file.read_text(encoding="utf-8"))
    said["experiment"]["model"]["stack"]["block"]["mixer"]["window"] = 4
    file.write_text(json.dumps(said), encoding="utf-8")


CASES = (
    Malformed(
        "unknown format",
        "export run out --to keras",
        r"--to is 'keras'.*hf, onnx, safetensors, savedmodel, stablehlo\.",
    ),
    Malformed("unknown method", "export run out --quantize int4", r"--quantize is 'int4'.*one of int8, dynamic\."),
    Malformed(
        "a format of floats",
        "export run out --to hf --quantize int8",
        r"--to hf holds no weights quantised by int8; export to onnx or safetensors or savedmodel or",
    ),
    Malformed("no folder to write into", "export run", r"out.*--help"),
    Malformed("folder that holds something", "export run weights", r"weights exists and is not an empty folder"),
    Malformed("file in the way", "export run train.csv", r"train\.csv exists and is not an empty folder"),
    Malformed("no run", "export weights out", r"weights is no run"),
    Malformed("no checkpoint", "export run out", r"run has no checkpoint yet", {"run/checkpoints": None}),
    Malformed(
        "another structure than BERT",
        "export run out --to hf",
        r"no Hugging Face form: .*window.*; export it to stablehlo or safetensors\.",
        {"run/experiment.json": other_structure},
    ),
)


@pytest.mark.represented_by(
    "unknown-format", "a-format-of-floats", "folder-that-holds-something", "another-structure-than-BERT"
)
@pytest.mark.parametrize("case", CASES, ids=[case.name.replace(" ", "-") for case in CASES])
def test_an_export_that_cannot_be_made_is_one_sentence_and_writes_nothing(
    case: Malformed, refused: Callable[[Malformed], str]
) -> None:
    assert re.search(case.sentence, refused(case))


@pytest.mark.slow
def test_without_the_library_of_a_format_the_extra_is_named(
    refused: Callable[[Malformed], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    modules: Any = sys.modules
    monkeypatch.setitem(modules, "jax2onnx", None)
    case = Malformed("no library", "export run out --to onnx", r"needs jax2onnx, .*pip install 'morphax\[onnx\]'")
    assert re.search(case.sentence, refused(case))


@pytest.fixture(scope="module")
def inside(workshop: Path) -> Any:
    """The workshop as the working folder and the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workshop)
        patch.setenv("MORPHAX_CACHE", str(workshop / "cache"))
        yield patch


LANGUAGE_MODEL = str(CONFIGS / "language_model.py")
TOKENS = {  # settings, and the axes that the program has any extent of
    "attention": ((), ("b", "t")),
    "bfloat16": (("precision=bfloat16",), ("b", "t")),
    "long rows": (("data.length=80",), ("b", "t")),  # longer than the blocks that a CPU computes attention in
    "recurrence": (("model.stack.block.mixer=GatedDeltaNet(heads=2)",), ("b",)),
    "experts": (("model.stack.block.feedforward=Experts(experts=4)",), ()),
    "kernel": (("model.stack.block.mixer=GatedDeltaNet(heads=2, implementation='pallas')",), ()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKENS)
def test_a_language_model_gives_logits_for_as_many_rows_and_tokens_as_it_traces_with(
    name: str, inside: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, symbols = TOKENS[name]
    run = tmp_path / "run"
    assert main(["train", LANGUAGE_MODEL, "steps=2", *settings, "--run", str(run)]) == 0
    said = exported(run, tmp_path / "out", capsys, "--config", LANGUAGE_MODEL)
    assert tuple(said["symbolic"]) == symbols
    assert set(said["inputs"]) == {"tokens", "segments"}
    assert "logits of one forward pass" in said["remarks"][0]
    assert max(run_alone(tmp_path / "out", said).values()) <= said["checked"]["tolerance"]


IMAGES = """
from models import Attention, Block, ClassHead, LearnedPosition, MeanPool, PatchEmbed, Stack, Transformer
from train.data.tasks.images import Images
from train.experiment import Experiment
from train.objectives import Classification
from train.optimizers import AdamW


def experiment():
    embed = PatchEmbed(8, 4, 0, LearnedPosition(4))
    return Experiment(
        model=Transformer(embed, Stack(Block(Attention(2)), repeats=1), ClassHead(2, MeanPool())),
        objective=Classification(),
        data=Images(path="pictures", size=(8, 8), channels=3, holdout=0.3),
        optimizer=AdamW(),
        batch_size=4,
        steps=2,
    )
"""
PAIRS = """
from configs.translate_numbers import make_model
from train.data.tasks.pairs import Pairs
from train.experiment import Experiment
from train.objectives import Translation
from train.optimizers import AdamW


def experiment():
    return Experiment(
        model=make_model(300, 16, 1, heads=2),
        objective=Translation(),
        data=Pairs(path="pairs.csv", tokenizer="bpe:300", holdout=0.3),
        optimizer=AdamW(),
        batch_size=4,
        steps=2,
    )
"""


@pytest.mark.slow
def test_a_model_of_images_reads_images_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for index in range(24):
        place = tmp_path / "pictures" / ("dark", "light")[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 10 * index, np.uint8)).save(place / f"{index}.png")
    (tmp_path / "own.py").write_text(IMAGES, encoding="utf-8")
    assert main(["train", "own.py", "--run", "run"]) == 0
    said = exported(Path("run"), tmp_path / "out", capsys, "--config", "own.py")
    assert said["inputs"]["image"]["shape"] == ["b", 8, 8, 3]
    assert set(said["inputs"]) == {"image"}
    assert said["classes"] == ["dark", "light"]
    assert max(run_alone(tmp_path / "out", said).values()) <= said["checked"]["tolerance"]


@pytest.mark.slow
def test_a_translation_is_a_forward_pass_with_a_tokenizer_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"number {index},nombre {index * 7}\n" for index in range(60))
    (tmp_path / "pairs.csv").write_text("source,target\n" + rows, encoding="utf-8")
    (tmp_path / "own.py").write_text(PAIRS, encoding="utf-8")
    assert main(["train", "own.py", "--run", "run"]) == 0
    said = exported(Path("run"), tmp_path / "out", capsys, "--config", "own.py")
    assert set(said["symbolic"]) == {"b", "t"}
    assert said["symbolic"]["t"].endswith("at most 64")  # of data.length, though all of these are shorter
    assert "found by a search" in said["remarks"][0]
    assert said["tokenizer"] == "tokenizer.json"
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (tmp_path / "run" / "tokenizer.json").read_bytes()
