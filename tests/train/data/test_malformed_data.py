"""Malformed data, tokenizers and standard input end in one sentence before anything is compiled or written."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from tests.conftest import CONFIG, TEST, TRAIN, Malformed
from train.data.sources.tfds import prepare

VALUES = "train config.py data.kind=value 'model.head=ValueHead()' 'objective=MeanSquaredError()' data.target=label"
VALUES += " evaluation.metric=loss"
STARS = "train config.py data.path=none data.test=none data.dataset=few_stars"
CORPUS = "train tiny_lm --run new data.path=plays.txt"


def words(count: int) -> Callable[[Path], object]:
    """Writes a tokenizer of so many words."""
    vocabulary = {"[UNK]": 0} | {f"word{index}": index for index in range(1, count)}
    return lambda path: Tokenizer(WordLevel(vocabulary, unk_token="[UNK]")).save(str(path))


class FewStars(tfds.core.GeneratorBasedBuilder):
    """Three sentences with one to three stars."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        stars = tfds.features.ClassLabel(names=["one", "two", "three"])
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"text": tfds.features.Text(), "stars": stars})
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, object]:
        del dl_manager
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, object]]]:
        yield from ((index, {"text": f"film {index}", "stars": index}) for index in range(3))


@pytest.fixture(scope="module", autouse=True)
def few_stars(cache: Path) -> None:
    """Prepares the data set where a session's cache is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MORPHAX_CACHE", str(cache))
        prepare(FewStars.name)


CASES = (
    # Tables.
    Malformed(
        "no column for the text",
        "train config.py data.text=words",
        r"train\.csv has no column 'words'; it has text, label: set data\.text",
    ),
    Malformed(
        "no column for the target",
        "train config.py data.target=stars",
        r"train\.csv has no column 'stars'.*set .*data\.target",
    ),
    Malformed("empty file", "train config.py", r"train\.csv has no examples.*at least one", {"train.csv": ""}),
    Malformed(
        "header only", "train config.py", r"train\.csv has no examples.*at least one", {"train.csv": "text,label\n"}
    ),
    Malformed("test file empty", "train config.py", r"test\.csv has no examples", {"test.csv": ""}),
    Malformed(
        "bytes that are no UTF-8",
        "train config.py",
        r"train\.csv, line 10, is not UTF-8.*iconv",
        {"train.csv": TRAIN.encode() + b"caf\xe9,good\n"},
    ),
    Malformed(
        "row with a field too many",
        "train config.py",
        r"train\.csv, line 10, has 3 fields.*names 2",
        {"train.csv": TRAIN + "fine, really,good\n"},
    ),
    Malformed(
        "row with a field too few",
        "train config.py",
        r"train\.csv, line 10, has 1 fields.*names 2",
        {"train.csv": TRAIN + "fine\n"},
    ),
    Malformed(
        "quotes that never close",
        "train config.py",
        r"train\.csv, line \d+, is not well-formed",
        {"train.csv": TRAIN + '"fine,good\n'},
    ),
    Malformed(
        "header names a column twice",
        "train config.py",
        r"train\.csv names a column twice.*text, text",
        {"train.csv": "text,text\na,b\n"},
    ),
    Malformed(
        "cell without text",
        "train config.py",
        r"train\.csv, example 9, has no text; remove it or fill it in",
        {"train.csv": TRAIN + ",good\n"},
    ),
    Malformed(
        "cell of spaces",
        "train config.py",
        r"test\.csv, example 3, has no text; remove it or fill it in",
        {"test.csv": TEST + "  ,good\n"},
    ),
    Malformed(
        "cell without label",
        "train config.py",
        r"train\.csv, example 9, has '' for a class; give a name",
        {"train.csv": TRAIN + "fine,\n"},
    ),
    Malformed(
        "label never seen in training",
        "train config.py",
        r"test\.csv, example 3, has the label 'so so'.*bad, good",
        {"test.csv": TEST + "film,so so\n"},
    ),
    Malformed(
        "label that data.labels lacks",
        'train config.py \'data.labels=("bad", "fine")\'',
        r"train\.csv, example 2, has the label 'good'.*bad, fine",
    ),
    Malformed(
        "one class more than the head",
        "train config.py",
        r"3 classes \(bad, good, so so\).*set model\.head\.classes=3",
        {"train.csv": TRAIN + "film,so so\n", "config.py": CONFIG.replace("classifier(2", "classifier(4")},
    ),
    Malformed(
        "one class less than the head",
        "train config.py model.head.classes=3",
        r"2 classes \(bad, good\).*classes is 3; set model\.head\.classes=2",
    ),
    Malformed("label for a number", VALUES, r"train\.csv, example 1, has 'bad' for a number; correct it, or set data"),
    Malformed(
        "nan for a number",
        VALUES,
        r"train\.csv, example 2, has 'nan' for a number; give a finite one",
        {"train.csv": "text,label\na,1\nb,nan\n"},
    ),
    Malformed(
        "infinity for a number",
        VALUES,
        r"train\.csv, example 1, has '-inf' for a number; give a finite one",
        {"train.csv": "text,label\na,-inf\n"},
    ),
    Malformed(
        "sentence too long",
        "train config.py",
        r"train\.csv, example 9 has 60 tokens and data\.length is 48; raise it, or set data\.truncate=true",
        {"train.csv": TRAIN + "x" * 60 + ",good\n"},
    ),
    Malformed(
        "nothing held out",
        "train config.py data.test=none data.holdout=0.000001",
        r"train\.csv \(test part\) is empty; give more data, or another data\.holdout",
    ),
    Malformed(
        "sentences longer than the positions",
        "train config.py data.length=64 model.embed.position.length=48",
        r"data\.length is 64.*model\.embed\.position\.length.* 48",
    ),
    Malformed(
        "buckets longer than the positions",
        "train config.py data.length=64 data.pack=false model.embed.position.length=48",
        r"data\.length is 64.*model\.embed\.position\.length.* 48",
    ),
    Malformed(
        "length above the buckets",
        "train config.py data.length=999 data.pack=false",
        r"length 999 is above the largest of its buckets",
    ),
    Malformed(
        "test without path",
        "train config.py data.path=none",
        r"Text\.test is given without path; give what to train on",
    ),
    # Files.
    Malformed(
        "unknown extension",
        "train config.py data.path=train.xlsx",
        r"train\.xlsx is none of .*\.csv, \.tsv",
        {"train.xlsx": "x"},
    ),
    Malformed("file absent", "train config.py data.path=absent.csv", r"absent\.csv cannot be read: No such file"),
    Malformed(
        "folder for a file",
        "train config.py data.path=folder.csv",
        r"folder\.csv cannot be read: Is a directory",
        {"folder.csv/inside": ""},
    ),
    Malformed(
        "home of nobody",
        "train config.py data.path=~nobody-of-that-name/a.csv",
        r"~nobody-of-that-name/a\.csv cannot be read",
    ),
    Malformed(
        "name too long", f"train config.py data.path={'a' * 300}.csv", r"a\.csv cannot be read: File name too long"
    ),
    # JSON lines.
    Malformed(
        "line that is no JSON",
        "train config.py data.path=a.jsonl",
        r"a\.jsonl, line 2, is not JSON.*one object",
        {"a.jsonl": '{"text": "a", "label": "good"}\n{"text": \n'},
    ),
    Malformed(
        "line that is no object",
        "train config.py data.path=a.jsonl",
        r"a\.jsonl, line 1, holds a list; each line must be one object, as `jq -c '\.\[\]'` makes them of an array",
        {"a.jsonl": '["a", "good"]\n'},
    ),
    Malformed(
        "row that lacks the text",
        "train config.py data.path=a.jsonl",
        r"a\.jsonl, example 2, has no text",
        {"a.jsonl": '{"text": "a", "label": "good"}\n{"label": "bad"}\n'},
    ),
    Malformed(
        "row that lacks the label",
        "train config.py data.path=a.jsonl",
        r"a\.jsonl, example 2, has None for a class",
        {"a.jsonl": '{"text": "a", "label": "good"}\n{"text": "b"}\n'},
    ),
    Malformed(
        "text that is a number",
        "train config.py data.path=a.jsonl",
        r"a\.jsonl, example 1, has no text",
        {"a.jsonl": '{"text": 3, "label": "good"}\n'},
    ),
    Malformed(
        "half a surrogate pair",
        "train config.py data.path=a.jsonl",
        r"a\.jsonl, line 1, .*surrogate",
        {"a.jsonl": '{"text": "\\ud800", "label": "good"}\n'},
    ),
    Malformed(
        "number too large",
        f"{VALUES} data.path=a.jsonl",
        r"a\.jsonl, example 1, .*finite",
        {"a.jsonl": '{"text": "a", "label": 1' + "0" * 400 + "}\n"},
    ),
    Malformed(
        "number of 5000 digits",
        f"{VALUES} data.path=a.jsonl",
        r"a\.jsonl, line 1, is not JSON",
        {"a.jsonl": '{"text": "a", "label": 1' + "0" * 5000 + "}\n"},
    ),
    Malformed(
        "nesting without end",
        "train config.py data.path=a.jsonl",
        r"a\.jsonl, line 1, is not JSON",
        {"a.jsonl": "[" * 200_000},
    ),
    # Long texts.
    Malformed(
        "text too short for its windows",
        CORPUS,
        r"train text has \d+ tokens, too few for windows of 64; lower data\.length or give more",
        {"plays.txt": "short"},
    ),
    Malformed(
        "window of one token",
        f"{CORPUS} data.length=1",
        r"Corpus\.length is 1; a window needs 2",
        {"plays.txt": "short"},
    ),
    Malformed("blank text", CORPUS, r"plays\.txt has no text; it needs some", {"plays.txt": "\n \n"}),
    Malformed(
        "corpus without its column",
        "train tiny_lm --run new data.path=train.csv data.text=words",
        r"train\.csv has no column 'words'; it has text, label: set data\.text",
    ),
    Malformed(
        "corpus row without its column",
        "train tiny_lm --run new data.path=a.jsonl",
        r"a\.jsonl, example 2, has no text",
        {"a.jsonl": '{"text": "a"}\n{"words": "b"}\n'},
    ),
    Malformed(
        "mask token unknown",
        f"{CORPUS} 'data.masking=Masking()'",
        r"tokenizer 'bytes' has no token '\[MASK\]'; set data\.masking\.token",
        {"plays.txt": "a" * 2000},
    ),
    Malformed("mask of everything", f"{CORPUS} 'data.masking=Masking(rate=1)'", r"Masking\.rate is 1.*between 0 and 1"),
    # Tokenizers.
    Malformed(
        "tokenizer larger than the model",
        "train config.py data.tokenizer=words.json model.embed.vocab=256",
        r"300 tokens.*vocab is 256; set model\.embed\.vocab=300",
        {"words.json": words(300)},
    ),
    Malformed(
        "tokenizer absent",
        "train config.py data.tokenizer=absent.json",
        r"no tokenizer file absent\.json; give the tokenizer\.json",
    ),
    Malformed(
        "tokenizer that is none",
        "train config.py data.tokenizer=words.json",
        r"words\.json is no tokenizer file",
        {"words.json": '{"version": "1.0"}'},
    ),
    Malformed(
        "tokenizer of an unknown package",
        "train config.py data.tokenizer=package:nope/tokenizer.json",
        r"No published package is called 'nope'; valid names",
    ),
    # Data sets.
    Malformed(
        "unknown data set",
        "train config.py data.path=none data.test=none data.dataset=movie_snipets",
        r"'movie_snipets'.*morphax data list",
    ),
    Malformed(
        "data set that is only a module",
        "train config.py data.path=none data.test=none data.dataset=corpus",
        r"'corpus'.*morphax data list",
    ),
    Malformed(
        "unknown configuration",
        "train config.py data.path=none data.test=none data.dataset=movie_snippets/stars",
        r"'movie_snippets/stars'.*labels",
    ),
    Malformed("data set named like a path", "data show ../config", r"'\.\./config'.*morphax data list"),
    Malformed("data set of a foreign source", "data show huggingface:nope", r"'huggingface:nope'.*morphax data list"),
    Malformed(
        "unknown split",
        f'{STARS} \'data.splits=("train", "exam")\'',
        r"few_stars has no split 'exam'; it has train, test",
    ),
    Malformed(
        "data set without its column",
        f"{STARS} data.target=label",
        r"few_stars train has no column 'label'; it has .*stars.*: set data\.text",
    ),
    Malformed(
        "data set with a class too many",
        f"{STARS} data.target=stars model.head.classes=2",
        r"3 classes \(one, two, three\).*set model\.head\.classes=3",
    ),
    Malformed("no data set to prepare", "data prepare", r"data prepare needs a name; see `morphax data list`"),
)


@pytest.mark.parametrize("case", CASES, ids=[case.name.replace(" ", "-") for case in CASES])
def test_malformed_data_are_one_sentence_and_change_nothing(
    case: Malformed, refused: Callable[[Malformed], str]
) -> None:
    assert re.search(case.sentence, refused(case))
