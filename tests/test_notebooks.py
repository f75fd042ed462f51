"""The notebooks of colab/ as they are stored: valid, without outputs, one way to begin, and every name and setting in
them is one.
"""

import ast
import importlib
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from tests.places import ROOT
from train.config import list_configs
from train.notebook import configured

NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
EVERY = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def cells(path: Path) -> list[Any]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def code(path: Path) -> dict[str, str]:
    """The source of the code cells, by their id."""
    return {cell["id"]: "".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "code"}


def test_there_are_five_and_a_page_opens_each_in_colab() -> None:
    page = (ROOT / "docs" / "howto" / "colab.md").read_text(encoding="utf-8")
    opened = re.findall(r"colab\.research\.google\.com/github/morphax/morphax/blob/v0\.1\.0/colab/(\w+)\.ipynb", page)
    assert sorted(opened) == [path.stem for path in NOTEBOOKS]
    assert len(NOTEBOOKS) == 5


@EVERY
def test_a_notebook_is_valid_and_holds_no_outputs(path: Path) -> None:
    whole = json.loads(path.read_text(encoding="utf-8"))
    assert (whole["nbformat"], whole["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in whole["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in whole["cells"]:
        assert re.fullmatch(r"[\w-]{1,64}", cell["id"])
        required = {"cell_type", "id", "metadata", "source"}
        assert set(cell) == (required | {"outputs", "execution_count"} if cell["cell_type"] == "code" else required)
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@EVERY
def test_the_first_cell_installs_at_a_tag_and_the_second_tells_the_backend(path: Path) -> None:
    first, second, *_ = code(path).values()
    address, rest = first.split("\n", 1)
    assert re.fullmatch(
        r'REPOSITORY, TAG, EXTRA = "https://github.com/morphax/morphax", "v0\.1\.0", "(\[\w+\])?"', address
    )
    assert rest == next(iter(code(NOTEBOOKS[0]).values())).split("\n", 1)[1]
    assert "jax.default_backend()" in second
    assert "assert BACKEND in" in second
    assert "Runtime -> Change runtime type" in second


def started(monkeypatch: pytest.MonkeyPatch, folder: Path, importable: bool, after: str = "0.7.2") -> list[list[str]]:
    """The commands that the first cell runs, on a machine that has jax 0.7.2 and then another."""
    ran: list[list[str]] = []
    versions = iter(["0.7.2", after])
    had = [
        SimpleNamespace(name=name, version=version)
        for name, version in (("jax", "0.7.2"), ("libtpu", "0.0.21"), ("pip", "26"))
    ]
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: SimpleNamespace(origin="train.py" if importable else None)
    )
    monkeypatch.setattr("importlib.metadata.version", lambda name: next(versions))
    monkeypatch.setattr("importlib.metadata.distributions", lambda: had)
    monkeypatch.setattr("subprocess.run", lambda command, check: ran.append([str(word) for word in command]))
    exec(next(iter(code(NOTEBOOKS[0]).values())), {})
    return ran


def test_what_is_importable_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert started(monkeypatch, tmp_path, importable=True) == []


def test_what_is_installed_keeps_jax_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clone, install = started(monkeypatch, tmp_path, importable=False)
    assert clone[-4:] == ["--branch", "v0.1.0", "https://github.com/morphax/morphax", str(tmp_path / "morphax")]
    assert install[-4:] == ["--constraint", "kept.txt", "--editable", f"{tmp_path / 'morphax'}[drive]"]
    assert (tmp_path / "kept.txt").read_text(encoding="utf-8").split() == ["jax==0.7.2", "libtpu==0.0.21"]


def test_another_jax_after_the_installation_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="jax is no longer 0.7.2"):
        started(monkeypatch, tmp_path, importable=False, after="0.9.0")


@EVERY
def test_every_name_that_is_imported_from_this_project_exists(path: Path) -> None:
    for source in code(path).values():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in (
                "models",
                "train",
                "configs",
                "tests",
            ):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


@EVERY
def test_every_config_that_is_named_exists(path: Path) -> None:
    named = re.findall(r'(?:configured|fit)\("(\w+)"', "\n".join("".join(cell["source"]) for cell in cells(path)))
    assert set(named) <= set(list_configs())


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("backend", ["tpu", "gpu", "cpu"])
@EVERY
def test_the_settings_for_every_backend_fit_their_experiments(path: Path, backend: str, short: bool) -> None:
    known: dict[str, Any] = {"BACKEND": backend, "SHORT": short, "jax": jax}
    for name, source in code(path).items():
        if name in ("distance-mixer", "configure", "sizes-code"):
            exec(compile(source, name, "exec"), known)  # what a kernel does, on a machine that is not here
    for config, sizes in known.get("SIZES", {}).items():
        configured(config, *sizes)
