"""The walk of a batch from a line of CSV to the loss: six files, each entered from one other."""

import re
from pathlib import Path

import jax
import pytest

from models import bert
from tests.house.sizes import ROOT
from tests.house.walk import Walk, follow
from train.data.tasks.text import Text
from train.engine.step import make_loss
from train.objectives import Classification

MOST = 6
FILES = [
    "train/data/tasks/text.py",
    "train/data/sources/__init__.py",
    "train/data/sources/text_files.py",
    "train/data/batches.py",
    "train/engine/step.py",
    "train/objectives/classification.py",
]
HELPERS = {f"train/data/{name}.py" for name in ("classes", "encoded", "lazy", "notes", "tokens")}
MODEL = bert.classifier(2, bert.transformer(vocab=256, width=8, depth=1, heads=1, hidden=8, length=16))
TITLES = "A batch", "An override"
LIST = re.compile(r"^\d+\. `([\w/.]+)`", re.MULTILINE)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    path = tmp_path_factory.mktemp("walk") / "reviews.csv"
    path.write_text("text,label\n" + "".join(f"film {row},{('bad', 'good')[row % 2]}\n" for row in range(20)))
    data = Text(path=str(path), length=16, holdout=0.3)
    example = data.open().batches("train", 4, 1, 0)[0]  # imports the formats too
    params = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), example))["params"]

    def read_and_compute() -> None:
        batch = data.open().batches("train", 4, 1, 0)[0]
        jax.eval_shape(make_loss(MODEL, Classification()), params, batch)

    return follow(read_and_compute, ROOT, str(path))


def test_a_batch_walks_through_six_files(walk: Walk) -> None:
    assert walk.files == FILES, "a file has joined: merge it with its neighbour, or hand it a column"
    assert len(walk.files) <= MOST
    assert walk.helpers == HELPERS


def test_no_file_of_the_walk_is_entered_from_two_others(walk: Walk) -> None:
    assert {file: callers for file, callers in walk.callers.items() if file in FILES and len(callers) > 1} == {}


def test_a_file_that_joins_is_seen() -> None:
    places: dict[str, object] = {}
    exec(compile("def pass_on(value):\n    return value", str(ROOT / "train/data/more.py"), "exec"), places)
    pass_on = places["pass_on"]
    assert callable(pass_on)
    for handed in ("a.csv", Path("a.csv"), {"tokens": 1}, [{"tokens": 1}]):
        assert follow(lambda handed=handed: pass_on(handed), ROOT, "a.csv").files == ["train/data/more.py"]
    for helped in ("a text", ["a text"], 1, ()):
        seen = follow(lambda helped=helped: pass_on(helped), ROOT, "a.csv")
        assert (seen.files, seen.helpers) == ([], {"train/data/more.py"})


def test_the_page_on_the_layout_lists_the_files_of_both_walks() -> None:
    page = (ROOT / "docs/layout.md").read_text(encoding="utf-8")
    batch, override = (LIST.findall(page.partition(f"### {title},")[2].partition("\n##")[0]) for title in TITLES)
    assert [f"train/{file}" for file in batch] == FILES
    assert len(override) <= 7
    assert [file for file in override if not (ROOT / "train" / file).is_file()] == []
