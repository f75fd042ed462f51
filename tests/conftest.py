"""Every test sees eight emulated CPU devices.  The tests of malformed input share one small run, and one judge of what
is refused.
"""

import io
import json
import os
import random
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image

from models import bert, save_hf
from tests import standins as stands
from tests.tiers import pytest_addoption, pytest_collection_finish, pytest_collection_modifyitems
from train.cli import main

QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"

# hooks, which pytest finds here
__all__ = ["pytest_addoption", "pytest_collection_finish", "pytest_collection_modifyitems"]

jax.config.update("jax_num_cpu_devices", 8)
# A tenth of the time to compile: without the passes that only make a program fast; in processes that tests start too.
jax.config.update("jax_disable_most_optimizations", True)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# the first of the two flags is gone later, and an unknown one ends the process
if (0, 7, 2) <= jax.__version_info__ < (0, 11):
    # A program of many small kernels compiles in half the time where each is emitted directly, and all as one module.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()

CONFIG = """
from models import bert
from train.data.tasks.text import Text
from train.experiment import Evaluation, Experiment
from train.objectives import Classification
from train.optimizers import AdamW

BODY = bert.transformer(vocab=256, width=16, depth=1, heads=2, hidden=32, length=48)


def experiment():
    return Experiment(
        model=bert.classifier(2, BODY),
        objective=Classification(),
        data=Text(path="train.csv", test="test.csv", length=48),
        optimizer=AdamW(),
        batch_size=4,
        steps=1,
        evaluation=Evaluation(batch_size=4, metric="accuracy", greater=True),
    )
"""
TRAIN = "text,label\n" + "".join(f"review {index},{('bad', 'good')[index % 2]}\n" for index in range(8))
TEST = "text,label\na fine film,good\na dull film,bad\n"


class Malformed(NamedTuple):
    """A case: what is spoiled before (new content, None to remove, or a change in place), the command, what the one
    sentence says.
    """

    name: str
    command: str
    sentence: str
    spoiled: Mapping[str, str | bytes | None | Callable[[Path], object]] = {}
    stdin: bytes = b""


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests keep what is prepared or compiled once, for all of their processes."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cache"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of stand-ins for the published sets that no package index ships."""
    return stands.make(tmp_path_factory.mktemp("standins"))


@pytest.fixture
def standins(made: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins take the place of the published sets, in the cache that all tests share."""
    stands.publish(made, monkeypatch)
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))


@pytest.fixture(scope="session")
def sound(cache: Path) -> Path:
    """A folder where everything is in order: a config, data, weights and a finished run of them; made once for all
    processes of the tests, which copy it.
    """
    from filelock import FileLock  # not where notebooks are tested

    folder, made = cache.parent / "sound", cache.parent / "sound.made"
    with FileLock(cache.parent / "sound.lock"):
        if not made.exists():
            folder.mkdir()
            make_sound(folder, cache)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def learned(sound: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A longer run of what is in order, whose outputs are not near zero."""
    run = tmp_path_factory.mktemp("learned") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(sound)
        patch.setenv("MORPHAX_CACHE", str(cache))
        words = ["steps=60", "optimizer.rate=Constant(1e-2)", "evaluation.every=60"]
        assert main(["train", "config.py", *words, "--run", str(run)]) == 0
    return run


def make_sound(folder: Path, cache: Path) -> None:
    """Fills a folder with what is in order."""
    for name, content in (("config.py", CONFIG), ("train.csv", TRAIN), ("test.csv", TEST)):
        (folder / name).write_text(content, encoding="utf-8")
    model = bert.transformer(vocab=256, width=16, depth=1, heads=2, hidden=32, length=48)
    params = model.init(jax.random.key(0), {"tokens": jax.numpy.zeros((1, 2), int)})["params"]
    save_hf(model, params, folder / "weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MORPHAX_CACHE", str(cache))
        assert main(["train", "config.py", "--run", "run"]) == 0


@pytest.fixture
def refused(
    sound: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    compiled: list[str],
) -> Callable[[Malformed], str]:
    """Runs a case beside everything that is in order; gives its one sentence after nothing was written, printed or
    compiled.
    """
    folder = tmp_path / "folder"
    shutil.copytree(sound, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))

    def run(case: Malformed) -> str:
        for name, content in case.spoiled.items():
            place = folder / name
            if callable(content):
                content(place)
            elif content is None:
                shutil.rmtree(place) if place.is_dir() else place.unlink()
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content if isinstance(content, bytes) else content.encode())
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(case.stdin), encoding="utf-8"))
        before = contents(folder)
        capsys.readouterr()
        compiled.clear()
        code = main(shlex.split(case.command))
        out, err = capsys.readouterr()
        *progress, sentence = [line for line in err.splitlines() if line.strip()]
        assert code == 2
        assert not out
        assert set(compiled) <= {"jit(fingerprint)"}  # the checksum of a checkpoint that is read
        assert contents(folder) == before
        assert sentence.startswith("morphax: ")
        assert all(line.startswith(("preparing ", "fetching ")) for line in progress)
        return sentence

    return run


@pytest.fixture(scope="session")
def compilations() -> list[str]:
    """What the backend compiles from here on, by name."""
    names: list[str] = []

    def note(event: str, duration_secs: float, **details: str | int) -> None:
        del duration_secs
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(str(details.get("fun_name", "unnamed")))

    jax.monitoring.register_event_duration_secs_listener(note)
    return names


@pytest.fixture
def compiled(compilations: list[str], sound: Path) -> list[str]:
    """What the backend compiles in this test, without the key of a seed, which is one number."""
    jax.random.key(0)
    compilations.clear()
    return compilations


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the text and the table that the experiments in tests/configs read, and the cache that their runs
    share.
    """
    folder = tmp_path_factory.mktemp("workshop")
    draw = random.Random(0)
    words = {"good": ["fine", "warm", "clever", "lovely"], "bad": ["dull", "cold", "clumsy", "awful"]}
    rows = {
        f"a {draw.choice(words[label])} film, number {index}": label for index in range(32) for label in ("good", "bad")
    }
    (folder / "sentences.csv").write_text(
        "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows.items()), encoding="utf-8"
    )
    (folder / "text.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def prose(tmp_path_factory: pytest.TempPathFactory) -> str:
    """3,000 bytes of which every three in a row occur once."""
    path = tmp_path_factory.mktemp("prose") / "prose.txt"
    path.write_text("".join(f"{number:03d}" for number in range(1000)), encoding="utf-8")
    return str(path)


def drawn(seed: int) -> tuple[np.ndarray, list[tuple[str, list[int]]]]:
    """A picture of 32 x 48 pixels with bright rectangles, those of the second class three times as wide as high."""
    chance, image, objects = np.random.default_rng(seed), np.zeros((32, 48, 3), np.uint8), []
    for place in range(1 + seed % 2):
        kind, left, top = int(chance.integers(2)), 2 + 24 * place + int(chance.integers(4)), int(chance.integers(2, 20))
        width, height = ((8, 8), (18, 6))[kind]
        image[top : top + height, left : left + width] = 255
        objects.append((("disc", "bar")[kind], [left, top, left + width, top + height]))
    return image, objects


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same twelve pictures as a COCO file and as a Pascal VOC folder."""
    folder = tmp_path_factory.mktemp("scenes")
    for inner in ("images", "voc/Annotations", "voc/JPEGImages"):
        (folder / inner).mkdir(parents=True)
    data: dict[str, list[Any]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 7, "name": "disc"}, {"id": 3, "name": "bar"}],
    }
    for number in range(12):
        image, objects = drawn(number)
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        Image.fromarray(image).save(folder / "voc" / "JPEGImages" / f"{number}.png")
        data["images"].append({"id": number, "file_name": f"{number}.png", "width": 48, "height": 32})
        items = ""
        for name, (left, top, right, bottom) in objects:
            entry = {
                "id": len(data["annotations"]),
                "image_id": number,
                "category_id": {"disc": 7, "bar": 3}[name],
                "iscrowd": 0,
            }
            data["annotations"].append(entry | {"bbox": [left, top, right - left, bottom - top], "area": 1})
            sides = zip(("xmin", "ymin", "xmax", "ymax"), (left + 1, top + 1, right, bottom), strict=True)
            items += (
                f"<object><name>{name}</name><bndbox>{''.join(f'<{k}>{v}</{k}>' for k, v in sides)}</bndbox></object>"
            )
        size = "<size><width>48</width><height>32</height></size>"
        text = f"<annotation><filename>{number}.png</filename>{size}{items}</annotation>"
        (folder / "voc" / "Annotations" / f"{number}.xml").write_text(text)
    (folder / "scenes.json").write_text(json.dumps(data))
    return folder
