"""The page of `morphax serve` answers by hand, on a desktop and on a phone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import open_page
from tests.train.use.serving.live import start

SIZES = {"desktop": (1200, 900), "phone": (390, 844)}
TABLE = "new File(['text\\na fine film\\na dull film\\n'], 'films.csv', {type: 'text/csv'})"


@pytest.fixture(scope="module")
def address(learned: Path, cache: Path) -> Iterator[str]:
    process, address = start(cache, str(learned), "--rows", "4")
    yield address
    process.terminate()
    process.wait()


@pytest.mark.parametrize("size", SIZES)
def test_the_page_answers_a_text_a_table_and_what_is_wrong(address: str, tmp_path: Path, size: str) -> None:
    with open_page(address, "morphax", *SIZES[size], tmp_path / "profile") as page:
        page.until("$('model').options.length === 1 && $('ask').disabled === false")
        page.run("$('input').value = 'a fine film'; $('form').requestSubmit()")
        page.until("document.querySelectorAll('#output td.bar').length === 2")
        assert page.run("$('output').querySelector('strong').textContent") == "a fine film"
        assert page.run("document.documentElement.scrollWidth <= window.innerWidth")
        heights = "[...document.querySelectorAll('#output td.number')].map(cell => cell.offsetHeight)"
        assert max(page.run(heights)) < 40  # one line
        page.photograph(tmp_path / f"{size}.png")
        page.run(f"const list = new DataTransfer(); list.items.add({TABLE}); $('file').files = list.files; void 0")
        page.run("$('form').requestSubmit()")
        page.until("document.querySelectorAll('#output section').length === 2")
        names = "[...document.querySelectorAll('#output strong')].map(name => name.textContent)"
        assert page.run(names) == ["a fine film", "a dull film"]
        page.run("$('file').value = ''; $('input').value = ' '; $('form').requestSubmit()")
        page.until("document.querySelector('#output .wrong')")
        assert "has no text" in page.run("document.querySelector('#output .wrong').textContent")
