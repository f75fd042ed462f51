"""The commands from end to end, on small experiments."""

import contextlib
import io
import json
import os
import pty
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from google.protobuf.message_factory import GetMessageClass

from tests.places import CONFIGS
from train.baselines import format_number
from train.cli import COMMANDS, main
from train.data.tasks.text import OpenedText
from train.engine.folder import read_run
from train.engine.prepared import Inference
from train.report.console import format_summary
from train.sinks.json_lines import read_metrics
from train.use.evaluate import restore_params

LANGUAGE_MODEL, SENTENCES = str(CONFIGS / "language_model.py"), str(CONFIGS / "sentences.py")
TEXTS = ("a fine film", "a dull film", "clumsy, cold and far too long for what it is")


class Said(NamedTuple):
    """What a command gave: its exit code and what it wrote."""

    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture(scope="module")
def inside(workshop: Path) -> Iterator[pytest.MonkeyPatch]:
    """The workshop as the working folder and the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workshop)
        patch.setenv("MORPHAX_CACHE", str(workshop / "cache"))
        yield patch


class Runs(dict[str, Path]):
    """A run of each kind, `classes`, `tokens` and `values`, trained when it is asked for."""

    def __init__(self, commands: dict[str, tuple[str, ...]]) -> None:
        super().__init__()
        self.commands = commands
        self.told: dict[str, str] = {}  # on standard error, by run

    def __missing__(self, name: str) -> Path:
        with contextlib.redirect_stderr(io.StringIO()) as told:
            assert main(["train", *self.commands[name], "--run", f"runs/{name}", "--json"]) == 0
        self.told[name] = told.getvalue()
        self[name] = Path("runs") / name
        return self[name]


@pytest.fixture(scope="module")
def runs(workshop: Path, inside: pytest.MonkeyPatch) -> Runs:
    """Runs in the workshop."""
    del inside
    rows = "".join(f"a film of {words} words,{words / 10}\n" for words in range(40))
    (workshop / "values.csv").write_text("text,score\n" + rows, encoding="utf-8")
    value = (
        "model.head=ValueHead(1)",
        "objective=MeanSquaredError()",
        "evaluation.metric=loss",
        "evaluation.greater=false",
    )
    value += ("data=Text(path='values.csv', target='score', kind='value', length=48, holdout=0.25)",)
    commands = {
        "classes": (SENTENCES, "steps=12"),
        "tokens": (LANGUAGE_MODEL, "steps=10"),
        "values": (SENTENCES, "steps=4", *value),
    }
    return Runs(commands)


@pytest.fixture
def command(runs: Runs, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in this process, where the runs are."""
    del runs

    def run(*arguments: str) -> Said:
        capsys.readouterr()
        code = main(list(arguments))
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


def launched(*arguments: str, program: Sequence[str] = (sys.executable, "-m", "train"), **options: Any) -> Said:
    """A command line in a process of its own."""
    done = subprocess.run(
        [*program, *arguments], capture_output=True, text=True, encoding="utf-8", check=False, **options
    )
    return Said(done.returncode, done.stdout, done.stderr)


def test_a_run_leaves_its_experiment_checkpoints_metrics_events_report_and_summary(runs: Runs) -> None:
    folder = runs["classes"]
    record = json.loads((folder / "experiment.json").read_text(encoding="utf-8"))
    assert {"experiment", "config", "classes", "versions", "data", "directory", "fresh", "settled"} == set(record)
    assert {"jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "python", "commit", "device"} <= set(
        record["versions"]
    )
    assert record["classes"] == ["bad", "good"]
    assert record["experiment"]["steps"] == 12
    assert (folder / "checkpoints" / "12").is_dir()
    lines = read_metrics(folder)
    assert [line["step"] for line in lines if "train/loss" in line] == [3, 6, 9, 10, 12]
    assert [line["step"] for line in lines if "evaluation/accuracy" in line] == [10, 12]
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert {"steps", "best_step", "parameters", "flops_per_step", "seconds_to_first_step", "peak_memory_bytes"} <= set(
        summary
    )
    assert summary["evaluation"]["accuracy"]["value"] == lines[-1]["evaluation/accuracy"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    for name in ("loss", "accuracy", "gradient_norm", "rate"):
        caption = rf"<figcaption>{name} <a [^>]*>CSV</a></figcaption>"
        assert re.search(rf"{caption}<div[^>]*><svg[^>]*>.*?<polyline[^>]* points=\"[\d., -]+\"", page)
    assert "http" not in page


@pytest.mark.slow
def test_the_table_of_a_run_has_a_simple_baseline_beside_each_metric(runs: Runs, command: Command) -> None:
    names = {"classes": "majority class", "tokens": "token frequencies", "values": "training mean"}
    metrics = {"classes": "accuracy", "tokens": "accuracy", "values": "mean_squared_error"}
    for kind in runs.commands:
        folder = runs[kind]
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        value = summary["baselines"][metrics[kind]][names[kind]]
        assert f"({names[kind]} {format_number(value)})" in dict(format_summary(summary))[metrics[kind]]
        assert f"{names[kind]} {format_number(value)}" in command("eval", str(folder)).out
    data = read_run(runs["values"]).experiment.data.open()
    assert isinstance(data, OpenedText)
    train, test = (np.array([row["value"] for row in data.rows[part]]) for part in ("train", "test"))
    error = test - train.mean()
    expected = {"loss": np.mean(error**2) / 2, "mean_absolute_error": np.abs(error).mean()}
    measured = json.loads((runs["values"] / "summary.json").read_text(encoding="utf-8"))["baselines"]
    assert {name: measured[name]["training mean"] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_tensorboard_events_hold_the_numbers_of_the_log(runs: Runs) -> None:
    # imported after the run, whose sink keeps PyTorch out of it
    places = list((runs["classes"] / "tensorboard").iterdir())
    from tensorboardX.proto import event_pb2

    kind: Any = GetMessageClass(event_pb2.DESCRIPTOR.message_types_by_name["Event"])
    found: dict[tuple[int, str], float] = {}
    for path in places:
        content, place = path.read_bytes(), 0
        while place < len(content):  # a record: length (8 bytes), its checksum (4), the event, its checksum (4)
            size = int.from_bytes(content[place : place + 8], "little")
            event = kind.FromString(content[place + 12 : place + 12 + size])
            found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
            place += size + 16
    logged = {
        (line["step"], name): value
        for line in read_metrics(runs["classes"])
        for name, value in line.items()
        if name != "step"
    }
    assert set(found) == set(logged)
    assert all(np.float32(logged[key]) == np.float32(value) for key, value in found.items())


def test_json_is_one_object_and_nothing_else_on_standard_output(runs: Runs, command: Command) -> None:
    folder = str(runs["classes"])
    for arguments in (
        ("train", SENTENCES, "steps=12", "--run", folder),
        ("train", SENTENCES, "--show"),
        ("eval", folder),
        ("predict", folder, *TEXTS),
        ("data", "list"),
    ):
        said = command(*arguments, "--json")
        assert said.code == 0
        assert said.out.count("\n") == 1 or "--show" in arguments
        assert isinstance(json.loads(said.out), dict)
    assert {"movie_snippets", "tiny_shakespeare"} <= set(json.loads(command("data", "list", "--json").out)["names"])


@pytest.mark.represented_by("classes")
@pytest.mark.parametrize("kind", ["classes", "tokens", "values"])
def test_evaluating_a_run_gives_the_last_evaluation_of_its_training(runs: Runs, command: Command, kind: str) -> None:
    folder = runs[kind]
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    said = command("eval", str(folder), "--config", LANGUAGE_MODEL, "--json")
    same = {name: summary[name] for name in ("evaluation", "review", "data", "warnings", "baselines")}
    assert json.loads(said.out) == {"run": str(folder), "step": summary["steps"], **same}
    said = command("eval", str(folder), "--config", LANGUAGE_MODEL)
    assert all(
        f"{name} " in said.out and f"{both['value']:.4f}" in said.out for name, both in summary["evaluation"].items()
    )


def test_predicting_gives_a_label_with_probabilities_that_sum_to_one(runs: Runs, command: Command) -> None:
    answers = json.loads(command("predict", str(runs["classes"]), *TEXTS, "--json").out)["answers"]
    assert [answer["input"] for answer in answers] == list(TEXTS)
    for answer in answers:
        chances = answer["probabilities"]
        assert set(chances) == {"bad", "good"}
        assert abs(sum(chances.values()) - 1) < 1e-9
        assert answer["label"] == max(chances, key=lambda name: chances[name])
    plain = command("predict", str(runs["classes"]), *TEXTS).out
    for answer in answers:
        chances = ", ".join(f"{name} {chance:.3f}" for name, chance in answer["probabilities"].items())
        assert f"{answer['input']}\n    {answer['label']}  {chances}\n" in plain


@pytest.mark.slow
def test_predicting_gives_a_value_for_regression_and_next_tokens_for_a_language_model(
    runs: Runs, command: Command
) -> None:
    for answer in json.loads(command("predict", str(runs["values"]), *TEXTS, "--json").out)["answers"]:
        assert isinstance(answer["value"], float)
    for answer in json.loads(
        command("predict", str(runs["tokens"]), "--config", LANGUAGE_MODEL, "a fine", "film", "--json").out
    )["answers"]:
        chances = list(answer["next"].values())
        assert len(chances) == 5
        assert chances == sorted(chances, reverse=True)
        assert 0 < sum(chances) <= 1


@pytest.mark.slow
def test_predicting_many_texts_at_once_is_predicting_them_one_by_one(runs: Runs, command: Command) -> None:
    together = json.loads(command("predict", str(runs["classes"]), *TEXTS, "--json").out)["answers"]
    for text, answer in zip(TEXTS, together, strict=True):
        (alone,) = json.loads(command("predict", str(runs["classes"]), text, "--json").out)["answers"]
        assert alone["label"] == answer["label"]
        np.testing.assert_allclose(
            list(alone["probabilities"].values()), list(answer["probabilities"].values()), rtol=1e-5
        )


@pytest.mark.slow
def test_predicting_reads_standard_input_a_text_a_line(runs: Runs, command: Command, workshop: Path) -> None:
    given = command("predict", str(runs["classes"]), *TEXTS)
    piped = launched("predict", str(runs["classes"]), "-", input="\n".join(TEXTS) + "\n\n", cwd=workshop)
    assert piped.code == 0
    assert piped.out == given.out


@pytest.mark.slow
def test_own_csv_tsv_and_jsonl_files_of_the_same_rows_give_the_same_model(
    runs: Runs, command: Command, workshop: Path
) -> None:
    rows = [row.rsplit(",", 1) for row in (workshop / "sentences.csv").read_text(encoding="utf-8").splitlines()[1:]]
    pairs = [(text.strip('"'), label) for text, label in rows]
    (workshop / "sentences.tsv").write_text(
        "label\ttext\n" + "".join(f"{label}\t{text}\n" for text, label in pairs), encoding="utf-8"
    )
    lines = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in pairs)
    (workshop / "sentences.jsonl").write_text(lines, encoding="utf-8")
    expected = parameters(runs["classes"])
    for kind in ("tsv", "jsonl"):
        assert command("train", SENTENCES, "steps=12", f"data.path=sentences.{kind}", "--run", f"runs/{kind}").code == 0
        assert same(parameters(Path("runs") / kind), expected)


def parameters(folder: Path) -> Any:
    """The parameters of a run's last checkpoint."""
    experiment = read_run(folder).experiment
    shapes = jax.eval_shape(lambda: experiment.model.init(jax.random.key(0), {"tokens": jax.numpy.zeros((1, 4), int)}))[
        "params"
    ]
    inference = Inference(experiment, experiment.data.open(), {}, shapes)
    return restore_params(folder, inference, best=False)[1]


def same(left: Any, right: Any) -> bool:
    """Whether two trees have the same bits."""
    return jax.tree.all(jax.tree.map(lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), left, right))


@pytest.mark.slow
def test_evaluation_never_changes_what_is_trained(runs: Runs, command: Command) -> None:
    settings = ("steps=12", "evaluation.every=2", "evaluation.batch_size=3", "checkpoints.every=none")
    assert command("train", SENTENCES, *settings, "--run", "runs/measured").code == 0
    assert same(parameters(Path("runs/measured")), parameters(runs["classes"]))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert f"examples:\n  morphax {name} " in capsys.readouterr().out


def test_help_waits_for_no_library() -> None:
    program = (
        "import sys\n"
        "from train.cli import COMMANDS, main\n"
        "for name in COMMANDS:\n"
        "    try: main([name, '--help'])\n"
        "    except SystemExit: pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    loaded = launched("-c", program, program=(sys.executable,)).err.split()
    assert "train" in loaded
    assert not {"jax", "numpy", "flax", "models", "tensorflow_datasets", "rich"} & set(loaded)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [("--help",), (SENTENCES, "--show", "--json"), ("absent",)], ids=["help", "show", "absent"]
)
def test_the_installed_command_is_python_dash_m_train(workshop: Path, arguments: tuple[str, ...]) -> None:
    script = str(Path(sysconfig.get_path("scripts")) / "morphax")
    assert launched(*arguments, program=(script,), cwd=workshop) == launched(*arguments, cwd=workshop)


LINE = r"step \d+/12: loss \d+\.\d{4}, rate \d\.\d\de-\d\d, \d+\.\d examples/s, \d+(\.\d)?[kM]? tokens/s"


def test_without_a_terminal_progress_is_plain_lines(runs: Runs) -> None:
    said = runs.told[runs["classes"].name]
    steps = [line for line in said.splitlines() if line.startswith("step ")]
    assert len(steps) == 5
    assert re.fullmatch(LINE, steps[0])
    assert all(re.fullmatch(LINE + r", \d+:\d\d left", line) for line in steps[1:])
    assert "\x1b" not in said


@pytest.mark.slow
def test_on_a_terminal_progress_is_a_bar(runs: Runs, workshop: Path) -> None:
    del runs
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "train", SENTENCES, "steps=12", "--run", "runs/bar"]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "160"}
    with subprocess.Popen(
        command, cwd=workshop, stdout=subprocess.DEVNULL, stderr=theirs, stdin=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = "".join(terminal(ours))
    os.close(ours)
    assert process.returncode == 0
    assert "step 12/12" in shown
    assert "━" in shown
    assert "examples/s" in shown
    assert "\x1b[" in shown
    assert "evaluation at step 12" in shown


def terminal(ours: int) -> Iterator[str]:
    """What is shown on a pseudo-terminal, to its end."""
    while True:
        try:
            content = os.read(ours, 65536)
        except OSError:  # Linux reports the closed other side as an error
            return
        if not content:
            return
        yield content.decode("utf-8", "replace")
