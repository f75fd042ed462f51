"""Sources of rows: Parquet, data sets of Hugging Face's library by folder and by name, and a format of one file that is
found.
"""

import datetime
import decimal
import json
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from datasets import config as datasets_config
from datasets.arrow_writer import ArrowWriter

import train.data.sources
from train.cli import main
from train.data.sources import find_format, list_suffixes, open_dataset, read
from train.data.tasks.boxes import Boxes
from train.data.tasks.images import Images
from train.data.tasks.pairs import Pairs
from train.data.tasks.series import Series
from train.data.tasks.text import Text
from train.engine.provenance import describe_changes, fingerprint_data, relocate_paths
from train.errors import InputError

ROWS = [
    {"text": f"a {'fine' if number % 2 else 'dull'} film, number {number}", "label": number % 2} for number in range(40)
]
FEATURES = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})


def reviews(rows: list[dict[str, Any]] = ROWS) -> datasets.Dataset:
    return datasets.Dataset.from_list(rows, features=FEATURES)


@pytest.fixture
def table(tmp_path: Path) -> str:
    """A table as pandas writes it, with its own numbers of rows."""
    frame = pandas.DataFrame(ROWS, index=[number * 7 for number in range(40)])
    frame["label"] = pandas.Categorical(["good" if row["label"] else "bad" for row in ROWS])
    frame.to_parquet(tmp_path / "reviews.parquet")
    return str(tmp_path / "reviews.parquet")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Two splits as `save_to_disk` writes them."""
    datasets.DatasetDict({"train": reviews(), "test": reviews(ROWS[:10])}).save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


def test_a_parquet_table_is_read_as_the_same_csv_is(table: str, tmp_path: Path) -> None:
    frame = pandas.read_parquet(table)
    frame.to_csv(tmp_path / "reviews.csv", index=False)
    assert list(read(table).examples) == list(read(str(tmp_path / "reviews.csv")).examples)
    opened, other = Text(path=table).open(), Text(path=str(tmp_path / "reviews.csv")).open()
    assert opened.classes == other.classes == ("bad", "good")
    assert [row["label"] for row in opened.rows["test"]] == [row["label"] for row in other.rows["test"]]
    assert opened.list_questions([table]) == [row["text"] for row in ROWS]


def test_classes_that_datasets_names_in_a_parquet_file_are_known(tmp_path: Path) -> None:
    reviews().to_parquet(tmp_path / "named.pq")
    split = read(str(tmp_path / "named.pq"))
    assert split.names == {"label": ("bad", "good")}
    assert Text(path=str(tmp_path / "named.pq")).open().classes == ("bad", "good")


def test_times_decimals_and_gaps_of_parquet_are_those_of_a_table_of_text(tmp_path: Path) -> None:
    start = datetime.datetime(2026, 1, 31, 22)
    columns = {
        "time": [start + datetime.timedelta(hours=number) for number in range(60)],
        "load": [decimal.Decimal(number) / 4 for number in range(60)],
        "wind": [None if number == 30 else float(number % 5) for number in range(60)],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "load.parquet")
    split = read(str(tmp_path / "load.parquet"))
    assert split.examples[3] == {"time": "2026-02-01T01:00:00", "load": 0.75, "wind": 3.0}
    series = Series(
        path=str(tmp_path / "load.parquet"), time="time", context=8, horizon=4, patch=4, gaps=1, lags=()
    ).open()
    assert series.classes == ("load", "wind")
    assert "1 of 60 values of 'wind'" in str(series.notes[0])


def test_a_folder_of_parquet_files_is_one_table(tmp_path: Path) -> None:
    (tmp_path / "parts.parquet").mkdir()
    for part in range(2):
        reviews(ROWS[part * 20 : part * 20 + 20]).to_parquet(tmp_path / "parts.parquet" / f"part-{part}.parquet")
    assert [row["text"] for row in read(str(tmp_path / "parts.parquet")).examples] == [row["text"] for row in ROWS]


def test_what_is_no_parquet_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("text,label\nfine,good\n")
    (tmp_path / "none.parquet").write_bytes(b"")
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], "string")}), tmp_path / "empty.parquet")
    twice = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(twice, tmp_path / "twice.parquet")
    for name, words in {
        "text": r"cannot be read as Parquet \(.*Parquet magic bytes not found.*\); write it again\.$",
        "none": r"cannot be read as Parquet \(.*size is 0 bytes\)",
        "absent": "cannot be read: No such file or directory",
        "empty": "has no examples",
        "twice": "names a column twice: text, text",
    }.items():
        with pytest.raises(InputError, match=words):
            read(str(tmp_path / f"{name}.parquet"))


def test_an_absent_extra_is_a_sentence_that_says_what_to_install(
    table: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    for path, extra in ((table, "parquet"), (f"{folder}/train", "datasets")):
        with pytest.raises(InputError, match=rf"needs .*: pip install 'morphax\[{extra}\]'\.$"):
            read(path)
    with pytest.raises(InputError, match=r"^hf:imdb needs datasets, .*: pip install 'morphax\[datasets\]'\.$"):
        open_dataset("hf:imdb", "train")


def test_a_version_that_runs_code_of_data_sets_is_refused(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(InputError, match=r"needs `datasets` 4 or later.*pip install -U 'morphax\[datasets\]'"):
        read(f"{folder}/train")


def test_a_saved_folder_is_read_by_its_path_with_the_names_of_its_classes(folder: str) -> None:
    opened = Text(path=f"{folder}/train", test=f"{folder}/test").open()
    assert opened.classes == ("bad", "good")
    assert [len(opened.rows[part]) for part in ("train", "test")] == [40, 10]
    assert opened.splits["test"].where(2) == f"{folder}/test, example 3"
    assert len(Text(path=f"{folder}/train").open().rows["test"]) < 20
    with pytest.raises(InputError, match=rf"holds the splits test, train; .*data\.dataset=hf:{folder}"):
        read(folder)


def test_a_saved_folder_is_a_data_set_with_splits_and_slices(folder: str) -> None:
    assert len(Text(dataset=f"hf:{folder}").open().rows["train"]) == 40
    split = open_dataset(f"hf:{folder}", "train[10%:50%]")
    assert [split.examples[place]["text"] for place in range(len(split.examples))] == [
        row["text"] for row in ROWS[4:20]
    ]
    assert len(open_dataset(f"hf:{folder}", "train[:3]+test[-2:]").examples) == 5
    with pytest.raises(InputError, match="has no split 'dev'; it has train, test: set data.splits"):
        open_dataset(f"hf:{folder}", "dev")
    with pytest.raises(InputError, match=r"has no slice 'train\[:x\]'"):
        open_dataset(f"hf:{folder}", "train[:x]")
    with pytest.raises(InputError, match="was not written by save_to_disk"):
        open_dataset(f"hf:{Path(folder).parent}", "train")
    with pytest.raises(InputError, match="write the boxes as a COCO or VOC folder"):
        Boxes(dataset=f"hf:{folder}").open()


def test_pictures_of_a_saved_folder_are_trained_on_as_arrays(tmp_path: Path) -> None:
    from PIL import Image

    draw = np.random.default_rng(0)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = [
        {"image": Image.fromarray(draw.integers(0, 256, (12, 10), np.uint8)), "label": number % 2}
        for number in range(8)
    ]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "pictures")
    opened = Images(dataset=f"hf:{tmp_path / 'pictures'}", splits=("train[:6]", "train[6:]"), size=(12, 10)).open()
    assert opened.classes == ("cat", "dog")
    np.testing.assert_array_equal(opened.picture("train", 3)[..., 0], np.asarray(rows[3]["image"]))
    batch = opened.batches("train", 4, 1, None)[0]
    assert batch["image"].shape == (4, 12, 10, 1)
    assert batch["labels"].tolist() == [0, 1, 0, 1]


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the library in which a data set lies as it once came from its hub, and no network."""
    place, splits = (
        tmp_path / "cache" / "someone___reviews" / "plain" / "0.0.0" / "0123abcd",
        datasets.SplitDict(dataset_name="reviews"),
    )
    place.mkdir(parents=True)
    for name, rows in (("train", ROWS), ("test", ROWS[:10])):
        with ArrowWriter(features=FEATURES, path=str(place / f"reviews-{name}.arrow")) as writer:
            for row in rows:
                writer.write(row)
            examples, size = writer.finalize()
        splits.add(datasets.SplitInfo(name, num_bytes=size, num_examples=examples, dataset_name="reviews"))
    info = datasets.DatasetInfo(
        features=FEATURES,
        license="CC0",
        dataset_name="reviews",
        config_name="plain",
        version=datasets.Version("0.0.0"),
        splits=splits,
    )
    info.write_to_directory(str(place))
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_name_is_found_in_the_local_cache(cached: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("hf:someone/reviews", "hf:someone/reviews:plain"):
        opened = Text(dataset=name).open()
        assert opened.classes == ("bad", "good")
        assert [row["text"] for row in opened.splits["train"].examples] == [row["text"] for row in ROWS]
    assert main(["data", "show", "hf:someone/reviews", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["data"]
    assert told["splits"] == {"train": 40, "test": 10}
    assert told["features"] == {"text": "Value", "label": "ClassLabel"}
    assert told["licence"] == "CC0"
    assert str(cached) in told["folder"]
    assert told["first"]["text"] == ROWS[0]["text"]


def test_a_name_that_the_cache_lacks_says_how_it_comes_there(cached: Path) -> None:
    with pytest.raises(
        InputError, match=r"is not in the cache of `datasets` \(.*datasets\.load_dataset\('nobody/nothing'\)\"` once"
    ) as caught:
        open_dataset("hf:nobody/nothing", "train")
    assert str(cached) in str(caught.value)
    with pytest.raises(
        InputError, match=r"hf:someone/reviews:other is none or several of the configurations here, plain"
    ):
        open_dataset("hf:someone/reviews:other", "train")


def test_a_run_remembers_which_data_of_the_library_it_was(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from configs import sentiment_bert
    from models import replace

    experiment = replace(sentiment_bert.experiment(), "data", Text(dataset=f"hf:{folder}"))
    before = fingerprint_data(experiment)
    assert before["data.dataset"]["examples"] == {"train": 40, "test": 10}
    assert fingerprint_data(experiment) == before
    other = datasets.DatasetDict({"train": reviews(ROWS[:30]), "test": reviews(ROWS[:10])})
    other.save_to_disk(tmp_path / "other")
    assert "data.dataset" in describe_changes(
        before, fingerprint_data(replace(experiment, "data.dataset", f"hf:{tmp_path / 'other'}"))
    )
    (tmp_path / "run").mkdir()
    relative = replace(experiment, "data.dataset", "hf:saved")
    found = relocate_paths(relative, tmp_path / "run", {"path": str(tmp_path), "from_run": ".."})
    assert found.data == Text(dataset=f"hf:{folder}")


def test_a_new_format_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "pipes.py").write_text(
        "from train.data.sources.text_files import read_text\n"
        "from train.data.sources import Format\n"
        "from train.data.sources import Split\n"
        "def read(path):\n"
        "    rows = [line.split('|') for line in read_text(path).splitlines()]\n"
        "    return Split([{'text': text, 'label': label} for text, label in rows], path, {})\n"
        "PIPES = Format(('.pipes',), read)\n"
    )
    (tmp_path / "reviews.PIPES").write_text("fine|good\ndull|bad\n")
    with pytest.raises(
        InputError, match=r"is none of \.jsonl, \.json, \.parquet, \.pq, \.txt, \.csv, \.tsv; rename it"
    ):
        read(str(tmp_path / "reviews.PIPES"))
    monkeypatch.setattr(train.data.sources, "__path__", [*train.data.sources.__path__, str(tmp_path / "own")])
    train.data.sources._discover.cache_clear()
    try:
        assert ".pipes" in list_suffixes()
        path = str(tmp_path / "reviews.PIPES")
        assert Text(path=path, test=path).open().classes == ("bad", "good")
        assert Pairs(path=path, test=path, source="text", target="label", tokenizer="bpe:300").open().pairs["train"][
            0
        ] == ("fine", "good")
        (tmp_path / "own" / "twice.py").write_text(
            "from train.data.sources.pipes import *\nOTHER = Format(('.csv',), read)\n"
        )
        train.data.sources._discover.cache_clear()
        with pytest.raises(ValueError, match=r"\.csv is read in text_files\.py and in twice\.py of train/data/sources"):
            list_suffixes()
    finally:
        for name in ("pipes", "twice"):
            sys.modules.pop(f"train.data.sources.{name}", None)
        train.data.sources._discover.cache_clear()


def test_a_path_that_no_format_reads_is_none_s(tmp_path: Path) -> None:
    assert find_format(str(tmp_path)) is None
    assert find_format("~nobody_here/x") is None
    assert find_format("a\0b") is None
