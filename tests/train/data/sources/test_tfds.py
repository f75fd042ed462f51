"""Data sets by name: those of TensorFlow's catalogue, prepared here or elsewhere, once."""

import fcntl
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import registered

from tests.train.data.rows import rows
from train.cli import main
from train.data import published
from train.data.readers.archive import settle
from train.data.sources import tfds as source
from train.data.sources.tfds import prepare
from train.data.tasks.images import Images
from train.data.tasks.text import Text
from train.errors import InputError


@pytest.mark.parametrize(
    "name",
    ["ag_news_subset", "wmt14_translate/de-en", "imagenet2012", "coco/2017", "voc", "ucf101", "glue/mnli", "mnist"],
)
def test_other_sets_of_the_catalogue_say_what_to_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(tmp_path))
    monkeypatch.setattr(published.urllib.request, "urlopen", None)
    assert main(["data", "prepare", name]) == 2
    base = name.partition("/")[0]
    assert capsys.readouterr().err == (
        f"morphax: {name} has to be prepared once with TensorFlow: run `pip install 'morphax[tf]'` and `morphax data"
        f" prepare {name}`, here"
        f" or on a machine with a network, then copy {tmp_path}/datasets/{base} to the same place.\n"
    )


@pytest.mark.parametrize("name", ["coco/2017", "wmt14_translate/de-en"])
def test_a_set_prepared_elsewhere_is_read_without_tensorflow(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, _, config = name.partition("/")

    with registered.skip_registration():

        class Elsewhere(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.1.0")
            BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)]

            def _info(self) -> tfds.core.DatasetInfo:
                return self.dataset_info_from_configs(
                    features=tfds.features.FeaturesDict({"text": tfds.features.Text()})
                )

            def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, object]:
                del dl_manager
                return {"train": self._generate_examples()}

            def _generate_examples(self) -> Iterator[tuple[int, dict[str, object]]]:
                yield 0, {"text": "from elsewhere"}

    Elsewhere.name = base
    Elsewhere(config=config, data_dir=tmp_path / "datasets", file_format="array_record").download_and_prepare(
        file_format="array_record"
    )
    Elsewhere.name = "elsewhere"
    monkeypatch.setenv("MORPHAX_CACHE", str(tmp_path))
    assert rows(name, "train") == [{"text": b"from elsewhere"}]


def test_a_folder_that_another_process_put_there_first_is_kept(tmp_path: Path) -> None:
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    settle(tmp_path / "mine", tmp_path / "theirs")
    assert (tmp_path / "theirs" / "file").read_text() == "theirs"
    settle(tmp_path / "mine", tmp_path / "free")
    assert (tmp_path / "free" / "file").read_text() == "mine"
    with pytest.raises(OSError, match="No such file"):
        settle(tmp_path / "absent", tmp_path / "nowhere")


class Contended(tfds.core.GeneratorBasedBuilder):
    """A set that notes, each time it is prepared, whether nobody else could do so at the time."""

    VERSION = tfds.core.Version("1.0.0")
    alone: ClassVar[list[bool]] = []

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, object]:
        del dl_manager
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, object]]]:
        folder = os.open(published.cache_folder() / "datasets" / self.name, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.alone.append(False)
        except BlockingIOError:
            self.alone.append(True)
        finally:
            os.close(folder)
        yield 0, {"text": "once"}


def test_of_two_processes_that_want_a_set_one_prepares_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(tmp_path))
    monkeypatch.setattr(Contended, "alone", [])
    lock = fcntl.flock

    def while_the_other_has_it(folder: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        prepare(Contended.name)  # what the other does before it lets go
        lock(folder, how)

    monkeypatch.setattr(fcntl, "flock", while_the_other_has_it)
    assert prepare(Contended.name).is_prepared()
    assert Contended.alone == [True]
    assert capsys.readouterr().err.count("preparing contended") == 1


class Unlabelled(tfds.core.GeneratorBasedBuilder):
    """Texts and pictures whose part to test on has no classes, as those of several sets of the catalogue."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "text": tfds.features.Text(),
            "image": tfds.features.Tensor(shape=(4, 4, 1), dtype=np.uint8),
            "label": tfds.features.ClassLabel(names="ab"),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, object]:
        del dl_manager
        return {
            "train": self._generate_examples([0, 1]),
            "validation": self._generate_examples([1, 0]),
            "test": self._generate_examples([-1]),
        }

    def _generate_examples(self, labels: list[int]) -> Iterator[tuple[int, dict[str, object]]]:
        for key, label in enumerate(labels):
            yield key, {"text": "some", "image": np.zeros((4, 4, 1), np.uint8), "label": label}


@pytest.mark.parametrize("data", [Text, Images])
def test_a_part_without_classes_is_refused_and_another_is_chosen_by_its_name(
    data: type[Text | Images], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(tmp_path))
    with pytest.raises(
        InputError, match=r"unlabelled test, example 1, has no class \(-1\); set data.splits to parts that have"
    ):
        data("unlabelled").open()
    assert data("unlabelled", splits=("train", "validation")).open().classes == ("a", "b")


with registered.skip_registration():

    class ByHand(tfds.core.GeneratorBasedBuilder):
        """A set of the catalogue whose files have to be fetched by hand."""

        __module__ = "tensorflow_datasets.image_classification.by_hand"
        VERSION = tfds.core.Version("1.0.0")
        MANUAL_DOWNLOAD_INSTRUCTIONS = "Register,\n  and put the archive here."

        def _info(self) -> tfds.core.DatasetInfo:
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

        def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, object]:
            return {"train": self._generate_examples(str(dl_manager.manual_dir))}

        def _generate_examples(self, text: str) -> Iterator[tuple[int, dict[str, object]]]:
            yield 0, {"text": text}


def test_what_a_set_of_the_catalogue_needs_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(tmp_path))
    monkeypatch.setattr(
        source, "make_builder", lambda name: ByHand(data_dir=tmp_path / "datasets", file_format="array_record")
    )
    find = importlib.util.find_spec
    # as where it is installed
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name == "tensorflow" else find(name))
    monkeypatch.setattr(source, "find_builder", lambda name: None)
    assert main(["data", "prepare", "by_hand"]) == 2
    *_, said = capsys.readouterr().err.splitlines()
    assert said.startswith("morphax: by_hand cannot be prepared: Manual directory ")
    assert said.endswith("Register, and put the archive here.")
