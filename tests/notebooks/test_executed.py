"""Every notebook of colab/ runs to its end, shortened, in a kernel of its own: no error, no warning, pictures where it
shows some.
"""

from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from nbclient.exceptions import DeadKernelError

COLAB = Path(__file__).parent.parent.parent / "colab"
NOTEBOOKS = sorted(COLAB.glob("*.ipynb"))
# What the last cells of each must have shown.
SHOWN = {
    "applications": ("Forecasts", "Boxes found", "image/gif"),
    "import_definitions": ("2 devices", "image/png"),
    "invent_a_structure": (">broken (", "FLOPs a step", "after 3 seeds", "Loss over training FLOPs", "<polygon"),
    "quickstart": ("a delightful film", "Confusion matrix", "<polyline"),
    "train_lm_tpu": ("ROMEO:", "Surprise", "<polyline"),
}
KILL = """
import signal

import train.notebook
from train.engine.checkpoint import Store

saved, moved = Store.save, train.notebook.Changing.update


def finished(store, *given):
    saved(store, *given)
    store.wait()


def killed(bar, step, values):
    moved(bar, step, values)
    if step == 6:
        os.kill(os.getpid(), signal.SIGKILL)


Store.save, train.notebook.Changing.update = finished, killed
"""


# Stand-ins take the place of the published sets that no package index ships.
PUBLISH = """
import pathlib

import pytest

from tests import standins

standins.publish(pathlib.Path({!r}), pytest.MonkeyPatch())
"""


@pytest.fixture(autouse=True)
def shortened(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """What a kernel inherits."""
    monkeypatch.setenv("MORPHAX_SHORT", "1")
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))  # so that stand-ins stay out of the user's
    monkeypatch.setenv("PYTHONPATH", str(COLAB.parent))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


def executed(book: Any, folder: Path) -> Any:
    """The notebook with its outputs, run in a folder."""
    return nbclient.NotebookClient(
        book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()


def read(name: str) -> Any:
    return nbformat.read(COLAB / f"{name}.ipynb", as_version=4)


def outputs(book: Any) -> list[Any]:
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def said(book: Any, name: str) -> list[str]:
    """The lines of a stream."""
    texts = [output.text for output in outputs(book) if output.output_type == "stream" and output.name == name]
    return [line for line in "".join(texts).splitlines() if line.strip()]


@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS])
def test_a_notebook_runs_to_its_end(name: str, made: Path, tmp_path: Path) -> None:
    book = read(name)
    places = [index for index, cell in enumerate(book.cells) if cell.id in ("install", "backend")]
    assert len(places) == 2
    book.cells[places[-1] + 1 : places[-1] + 1] = [
        nbformat.v4.new_code_cell(book.cells[place].source) for place in places
    ]  # run again
    book.cells.insert(places[-1] + 1, nbformat.v4.new_code_cell(PUBLISH.format(str(made))))
    book = executed(book, tmp_path)
    nbformat.validate(book)
    assert all(line.startswith(("preparing ", "fetching ")) for line in said(book, "stderr"))
    page = "\n".join(str(output) for output in outputs(book))
    assert all(words in page for words in SHOWN[name])


def test_a_run_whose_kernel_was_killed_goes_on_when_all_cells_run_again(tmp_path: Path) -> None:
    book = read("train_lm_tpu")
    (place,) = [index for index, cell in enumerate(book.cells) if cell.id == "fit"]
    book.cells.insert(place, nbformat.v4.new_code_cell(KILL))
    with pytest.raises(DeadKernelError):
        executed(book, tmp_path)
    again = said(executed(read("train_lm_tpu"), tmp_path), "stdout")
    assert "continuing from step 4 of 6" in again
