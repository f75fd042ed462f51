"""A run's folder that cannot be used, and a run that cannot be asked, end in one sentence and stay as they are."""

import asyncio
import gc
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TRAIN, Malformed
from train.engine.event_loop import drain

OTHER = {"run/summary.json": None}  # a run that is not finished


def recorded(path: str, value: object) -> Callable[[Path], object]:
    """Changes what experiment.json says at a dotted path; a value of None removes the key."""

    def change(file: Path) -> None:
        whole = json.loads(file.read_text())
        *parents, name = path.split(".")
        place = whole
        for parent in parents:
            place = place[parent]
        place.pop(name)
        if value is not None:
            place[name] = value
        file.write_text(json.dumps(whole))

    return change


def spoiled(path: Path) -> None:
    """Cuts every file of arrays below a folder in half."""
    for file in (file for file in path.rglob("d/*") if file.is_file()):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


MOVED = {"run/experiment.json": recorded("directory", None)}  # a run that does not know where its data was

CASES = (
    # A folder to train in.
    Malformed(
        "file in the way",
        "train config.py --run train.csv",
        r"train\.csv exists and is no run; name another folder with --run",
    ),
    Malformed(
        "folder below a file",
        "train config.py --run train.csv/run",
        r"train\.csv/run cannot be made: Not a directory; name another folder",
    ),
    Malformed(
        "folder with other things",
        "train config.py --run weights",
        r"weights exists and is no run; name another folder with --run",
    ),
    Malformed(
        "folder where none can be",
        "train config.py --run /proc/morphax",
        r"/proc/morphax cannot be made: .*; name another folder with --run",
    ),
    Malformed(
        "folder with a name too long",
        f"train config.py --run {'a' * 300}",
        r"a cannot be made: File name too long; name another folder",
    ),
    Malformed(
        "another experiment",
        "train config.py --run run seed=1 batch_size=8 model.stack.block.mixer.heads=4",
        r"run holds another experiment \(model\.stack\.block\.mixer\.heads: 2 -> 4; batch_size: 4 -> 8; seed: 0 ->"
        r" 1\): .* --run",
    ),
    Malformed(
        "another structure",
        "train config.py --run run model.embed.norm=none",
        r"run holds another.*model\.embed\.norm: LayerNorm\(\.\.\.\) -> None",
    ),
    Malformed(
        "record that is no JSON",
        "train config.py --run run",
        r"run/experiment\.json is damaged.*train anew",
        {"run/experiment.json": '{"experiment": '},
    ),
    Malformed(
        "record that is no UTF-8",
        "train config.py --run run",
        r"run/experiment\.json is damaged.*train anew",
        {"run/experiment.json": b"\xff"},
    ),
    Malformed(
        "record that is a list",
        "train config.py --run run",
        r"run/experiment\.json is damaged.*train anew",
        {"run/experiment.json": "[]"},
    ),
    Malformed(
        "record without classes",
        "train config.py --run run",
        r"run/experiment\.json is damaged.*classes.*train anew",
        {"run/experiment.json": recorded("classes", None)},
    ),
    Malformed(
        "record without an experiment",
        "train config.py --run run",
        r"run/experiment\.json is damaged.*'experiment'.*train anew",
        {"run/experiment.json": recorded("experiment", None)},
    ),
    Malformed(
        "record of something else",
        "train config.py --run run",
        r"run/experiment\.json holds no experiment",
        {"run/experiment.json": recorded("experiment", 3)},
    ),
    Malformed(
        "summary that is no JSON",
        "train config.py --run run",
        r"run/summary\.json is damaged.*remove it",
        {"run/summary.json": "{"},
    ),
    Malformed(
        "a class more than when it began",
        "train config.py --run run",
        r"example 9, has the label 'so so'.*known are bad, good",
        OTHER | {"train.csv": TRAIN + "film,so so\n"},
    ),
    Malformed(
        "checkpoints of another experiment",
        "train config.py --run run model.embed.width=32",
        r"run/checkpoints/1.*another structure: .*trained with",
        OTHER | {"run/experiment.json": recorded("experiment.model.embed.width", 32)},
    ),
    # A run to ask.
    Malformed(
        "folder that is no run",
        "predict weights film",
        r"weights is no run: it has no experiment\.json; give a folder that `morphax train` wrote",
    ),
    Malformed("folder that is absent", "predict absent film", r"absent is no run"),
    Malformed("text in place of the folder", f"predict '{'a film that ' * 30}' film", r"is no run"),
    Malformed(
        "component that is unknown",
        "predict run film",
        r"'Mamba'.*--config FILE",
        {"run/experiment.json": recorded("experiment.model.stack.block.mixer.class", "Mamba")},
    ),
    Malformed(
        "field that is unknown",
        "predict run film",
        r"no field 'sides'.*--config FILE",
        {"run/experiment.json": recorded("experiment.model.stack.block.mixer", {"class": "Attention", "sides": 3})},
    ),
    Malformed(
        "setting of another type",
        "predict run film",
        r"Attention\.heads takes a whole number; 'two'",
        {"run/experiment.json": recorded("experiment.model.stack.block.mixer.heads", "two")},
    ),
    Malformed("config of its components absent", "predict run --config absent.py film", r"no config file absent\.py"),
    Malformed(
        "run without checkpoints",
        "predict run film",
        r"run has no checkpoint yet; train it first",
        {"run/checkpoints": None},
    ),
    Malformed(
        "run with an empty folder of checkpoints",
        "predict run film",
        r"run has no checkpoint yet; train it first",
        {"run/checkpoints": None, "run/checkpoints/.keep": ""},
    ),
    Malformed(
        "run without a best checkpoint",
        "predict run --best film",
        r"run has no evaluated checkpoint yet; train it first",
        {"run/checkpoints/1/metrics": None},
    ),
    Malformed(
        "checkpoint damaged",
        "predict run film",
        r"checkpoint run/checkpoints/1 cannot be read \(.*train on",
        {"run/checkpoints/1/params": spoiled},
    ),
    Malformed(
        "checkpoint without parameters",
        "predict run film",
        r"checkpoint run/checkpoints/1 cannot be read \(.*train on",
        {"run/checkpoints/1/params": None},
    ),
    Malformed(
        "checkpoint of another width",
        "predict run film",
        r"checkpoint run/checkpoints/1 is of another structure: .*trained with",
        {"run/experiment.json": recorded("experiment.model.embed.width", 32)},
    ),
    Malformed(
        "checkpoint of another depth",
        "eval run model.stack.repeats=2",
        r"checkpoint run/checkpoints/1 is of another structure: .*trained with",
    ),
    Malformed(
        "checkpoint damaged, measured",
        "eval run",
        r"checkpoint run/checkpoints/1 cannot be read \(.*train on",
        {"run/checkpoints/1/params": spoiled},
    ),
    Malformed(
        "text too long",
        f"predict run {'x' * 60} ''",
        r"text 1 has 60 tokens and data\.length is 48; raise it, or set data\.truncate",
    ),
    Malformed("empty text", "predict run ''", r"text 1, has no text; remove it or fill it in"),
    Malformed("text that is no UTF-8", "predict run 'caf\udce9'", r"text 1, is not UTF-8"),
    Malformed(
        "own file and a path",
        "eval run --data test.csv data.path=train.csv",
        r"--data is test\.csv.*data\.path=train\.csv is given too",
    ),
    Malformed(
        "names that are too few",
        "predict run film --set 'data.names=(\"a\",)'",
        r"data\.names has 1 names \(a\) for 2 classes \(bad, good\)",
    ),
    Malformed("names that are alike", 'eval run \'data.names=("a", "a")\'', r"data\.names has 2 names .*no two alike"),
    # Options of generate.
    Malformed("temperature that is no number", "generate run film --temperature nan", r"temperature is nan; give 0"),
    Malformed("endless temperature", "generate run film --temperature inf", r"temperature is inf; give 0"),
    Malformed(
        "beams with a temperature",
        "generate run film --beams 2 --temperature 1",
        r"--beams searches .* --temperature would draw.*leave one",
    ),
    Malformed(
        "beams with a choice", "generate run film --beams 2 --top-k 4", r"--beams searches .* --top-k would draw"
    ),
    Malformed(
        "choice without a temperature",
        "generate run film --top-p 0.5",
        r"--top-p chooses .* --temperature is 0.*set it above 0",
    ),
    Malformed("seed below zero", "generate run film --seed -1", r"--seed is -1; give a whole number from 0 to"),
    Malformed("name for a list of data", "data list tweets", r"data list takes no name \(tweets\).*data show tweets"),
    Malformed("nothing on standard input", "predict run -", r"nothing to predict from; give a text or a file"),
    Malformed(
        "blank lines on standard input",
        "predict run -",
        r"nothing to predict from; give a text or a file",
        stdin=b"\n  \n",
    ),
    Malformed(
        "standard input that is no UTF-8",
        "predict run -",
        r"Standard input is not UTF-8; convert it",
        stdin=b"caf\xe9\n",
    ),
    Malformed(
        "long lines on standard input",
        "predict run --json -",
        r"text 1 has 60 tokens",
        stdin=b"x" * 60 + b"\n" + b"x" * 70,
    ),
    Malformed(
        "tokenizer gone",
        "predict run film",
        r"no tokenizer file gone\.json; give",
        {"run/experiment.json": recorded("experiment.data.tokenizer", "gone.json")},
    ),
    Malformed("test data gone", "eval run", r"test\.csv cannot be read: No such file", {"test.csv": None} | MOVED),
    Malformed(
        "test data with a new label",
        "eval run",
        r"test\.csv, example 1, has the label 'fair'.*known are bad, good",
        {"test.csv": "text,label\nfilm,fair\n"},
    ),
    Malformed(
        "setting of an evaluation misspelt", "eval run data.paht=test.csv", r"'data.paht'.*did you mean 'path'\?"
    ),
)


@pytest.mark.parametrize("case", CASES, ids=[case.name.replace(" ", "-") for case in CASES])
def test_a_run_that_cannot_be_used_is_one_sentence_and_stays_as_it_is(
    case: Malformed, refused: Callable[[Malformed], str]
) -> None:
    assert re.search(case.sentence, refused(case))


def test_a_process_that_meets_a_damaged_checkpoint_writes_one_line_and_no_stack_trace(
    sound: Path, cache: Path, tmp_path: Path
) -> None:
    shutil.copytree(sound, tmp_path / "folder")
    spoiled(tmp_path / "folder" / "run" / "checkpoints" / "1" / "params")
    command = [sys.executable, "-m", "train", "predict", "run", "film"]
    environment = os.environ | {"MORPHAX_CACHE": str(cache)}
    done = subprocess.run(
        command, cwd=tmp_path / "folder", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert not done.stdout
    sentence = done.stderr
    assert sentence.count("\n") == 1, sentence
    assert re.search(r"^morphax: The checkpoint run/checkpoints/1 cannot be read \(.*train on", sentence)


def test_tasks_of_a_failed_read_say_nothing_when_they_are_collected(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise ValueError("damaged")

    async def first_of_two() -> None:
        tasks = [asyncio.ensure_future(fails()) for _ in range(2)]
        await tasks[0]

    with drain():
        loop = asyncio.new_event_loop()
        with pytest.raises(ValueError, match="damaged"):
            loop.run_until_complete(first_of_two())
        loop.close()
    gc.collect()
    assert not caplog.records
