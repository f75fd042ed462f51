"""The README's snippets run as they stand, training and test part cut short; the text files that a newcomer would have are given."""

import os
import re
import subprocess
import sys
from pathlib import Path

from train.data.published import PACKAGES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def run(command: str, folder: Path) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


def test_the_first_block_names_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make (\w+)", README, flags=re.MULTILINE)
    assert targets[:2] == ["train", "test"]
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def test_the_command_line_trains_answers_and_measures(tmp_path: Path) -> None:
    train, *others = blocks("sh")[0].splitlines()
    small = "\"data.splits=('train', 'test[:32]')\" \"data.buckets=(128,)\" batch_size=8 evaluation.every=3"
    run(f"{train.replace('steps=20', 'steps=3')} {small}", tmp_path)
    answers, measured = (run(line, tmp_path) for line in others)
    assert "positive" in answers
    assert '"accuracy"' in measured


def test_the_import_road_lowers_the_loss_by_plain_jax(tmp_path: Path) -> None:
    script = tmp_path / "import_road.py"
    assert '"train", 32, 1' in blocks("python")[0]
    script.write_text(blocks("python")[0].replace('"train", 32, 1', '"train", 4, 1'), encoding="utf-8")
    losses = [float(value) for value in re.findall(r"loss (\d\.\d+)", run(f"python {script}", tmp_path))]
    assert len(losses) == 5
    assert min(losses[1:]) < losses[0]


def test_a_new_structure_is_one_class_and_one_override(tmp_path: Path) -> None:
    (tmp_path / "running_mean.py").write_text(blocks("python")[1], encoding="utf-8")
    (tmp_path / "text.txt").write_text(
        "\n".join(f"{number} times {number} is {number * number}." for number in range(2000)), encoding="utf-8"
    )
    command = blocks("sh")[1].strip()
    output = run(f"{command} data.path=text.txt steps=20 evaluation.every=20 --json", tmp_path)
    assert '"evaluation"' in output
    assert "RunningMean" in (tmp_path / "runs" / "running_mean" / "experiment.json").read_text(encoding="utf-8")
    assert run(f"{blocks('sh')[2].strip()} --tokens 8", tmp_path).startswith("ROMEO:")


def test_published_packages_and_their_requirements_agree() -> None:
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", (ROOT / "requirements-data.txt").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert pinned == {package.name: package.version for package in PACKAGES.values() if not package.source}
