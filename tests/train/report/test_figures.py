"""Figures as files: each form of a chart, the numbers beside it, letters that are in the file, and earlier figures."""

from pathlib import Path

import pytest

from train.charts import Matrix, Plot, Series
from train.report.figures import write_figures

CURVES = Plot(
    (
        Series("", ((1e9, 1.0, 2.0), (2e9, 0.5, 1.5)), "band", 0),
        Series("a $x$", ((1e9, 1.5), (2e9, 1.0)), "marked", 0),
        Series("b", ((1e9, 1.2),), "points", 1),
        Series("limit", ((1e9, 1.1), (2e9, 1.1)), "dashed", None),
    ),
    "FLOPs",
    "loss",
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_figures(folder, {"curves": CURVES})
    return folder / "figures"


def test_a_figure_is_two_drawings_and_the_numbers_of_the_same_plot(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == ["curves.csv", "curves.pdf", "curves.svg"]
    assert (written / "curves.csv").read_text().splitlines()[:2] == [
        "series,FLOPs,loss,high",
        ",1000000000.0,1.0,2.0",
    ]
    svg = (written / "curves.svg").read_text()
    assert "var(" not in svg
    assert "#2f5fd0" in svg
    assert "<text" not in svg, "letters are outlines"


def test_a_pdf_holds_its_letters_and_is_of_a_columns_width(written: Path) -> None:
    pdf = (written / "curves.pdf").read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/MediaBox [ 0 0 241.2" in pdf
    assert b"/Subtype /Image" not in pdf


def test_the_same_figure_is_the_same_file_and_earlier_figures_go(written: Path, tmp_path: Path) -> None:
    place = tmp_path / "figures"
    place.mkdir()
    for name in ("old.svg", "notes.txt"):
        (place / name).write_text("")
    write_figures(tmp_path, {"curves": CURVES})
    assert not (place / "old.svg").exists()
    assert (place / "notes.txt").exists()
    for name in ("curves.svg", "curves.pdf"):
        assert (place / name).read_bytes() == (written / name).read_bytes()


def test_a_matrix_is_cells_with_their_values(tmp_path: Path) -> None:
    cells = Matrix(((0.25, 1.0),), ("recall",), ("attention", "mine"), "structure", "probe")
    write_figures(tmp_path, {"accuracies": cells, "empty": Plot(())})
    assert (tmp_path / "figures" / "accuracies.pdf").stat().st_size > 1000
    assert (tmp_path / "figures" / "accuracies.csv").read_text().splitlines()[1] == "recall,attention,0.25"
