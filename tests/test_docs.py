"""The documentation: code blocks of docs/ and the README run as they stand, and links inside lead somewhere."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.pages import FENCE, ROOT, blocks, name_of, pages, run
from train.config import list_configs

PAGES = {name_of(page): page for page in pages()}
RUN = {name: page for name, page in PAGES.items() if any(block.use in ("python", "sh") for block in blocks(page))}
CODE = {name: page for name, page in RUN.items() if name != "README"}  # see test_readme
FEW = ("steps=3", "evaluation.every=3", "batch_size=8")
FILMS = (*FEW, "data.splits=('train', 'test[:32]')", "data.buckets=(128,)")
SMALL = ("steps=2", "batch_size=4", "evaluation.every=2", "evaluation.batch_size=8")
SHORTER = {  # of each page, arguments by a command and the config, the run or the file that it is about
    "start": {"train sentiment_bert": FILMS},
    "howto/component": {
        "train running_mean.py": ("steps=4", "model.stack.repeats=1", "batch_size=4"),
        "check running_mean.py": ("--law", "causal"),
    },
    "howto/own-files": {
        "train sentiment_bert": ("steps=2", "batch_size=8", "data.length=64"),
        "train tiny_lm": SMALL,
        "train translate_numbers": SMALL,
        "train images_vit": SMALL,
        "train video_motion": SMALL,
        "train detect_cells": SMALL,
        "train traffic_occupancy": SMALL,
        "train drive_highway": SMALL,
    },
    "howto/width": {"coordinates tiny_lm": ("model.stack.repeats=1", "data.length=16", "batch_size=2")},
    "howto/study": {"compare tiny_lm": ("steps=2", "model.stack.repeats=1", "batch_size=2", "data.length=16")},
    "contracts/layer": {"check shift.py": ("--law", "type")},
    "contracts/norm": {"check clipped.py": ("--law", "type")},
    "contracts/position": {"check phase.py": ("--law", "type")},
    "contracts/relative": {"check near.py": ("--law", "type")},
    "contracts/weigh": {"check squared.py": ("--law", "type")},
    "contracts/router": {"check top.py": ("--law", "type")},
    "contracts/residual": dict.fromkeys(("check halves.py", "check streams.py"), ("--law", "type")),
    "howto/weights": {"train sentiment_bert": FILMS},
}
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.represented_by("contracts/dataset", "contracts/head", "contracts/schedule", "contracts/weigh")
@pytest.mark.parametrize("page", CODE.values(), ids=CODE)
def test_blocks_of_a_page_run(page: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))
    run(blocks(page), tmp_path, monkeypatch, SHORTER.get(name_of(page)))


def test_every_block_is_run_or_says_that_it_is_shown() -> None:
    assert {block.use for page in PAGES.values() for block in blocks(page)} <= {"python", "sh", "file", "shown", "site"}


def headings(text: str) -> set[str]:
    """Anchors of a page, as GitHub and MyST make them."""
    lines = re.findall(r"^#{1,6} (.+)$", FENCE.sub("", text), flags=re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line) for line in lines)  # without the targets of links
    return {re.sub(r"[^\w\- ]", "", line).strip().lower().replace(" ", "-") for line in plain}


def broken(page: Path) -> list[str]:
    """Links of a page that lead to no file or no heading."""
    wrong: list[str] = []
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        if ":" in path:
            continue
        place = (page.parent / path).resolve() if path else page
        known = headings(place.read_text(encoding="utf-8")) if anchor and place.is_file() else {anchor}
        if not place.exists() or anchor not in known:
            wrong.append(f"{name_of(page)}: {target}")
    return wrong


def test_every_link_between_pages_leads_to_a_file_and_a_heading() -> None:
    beside = [ROOT / name for name in ("CONTRIBUTING.md", "AGENTS.md", "CHANGELOG.md")]
    assert [link for page in (*PAGES.values(), *beside) for link in broken(page)] == []


def test_every_page_is_in_the_contents() -> None:
    targets = (page.parent / target for page in PAGES.values() for target in listed(page))
    reached = {target.with_suffix(".md").resolve() for target in targets}
    inside = {page.resolve() for name, page in PAGES.items() if page.is_relative_to(ROOT / "docs") and name != "index"}
    assert inside == reached


def listed(page: Path) -> list[str]:
    """The pages that a page's tables of contents name."""
    found = [block.source for block in blocks(page) if block.language == "{toctree}"]
    lines = [line.strip() for source in found for line in source.splitlines()]
    return [line for line in lines if line and not line.startswith(":")]


def test_every_config_that_is_named_in_a_command_exists() -> None:
    shown = (block for page in PAGES.values() for block in blocks(page) if block.language in ("sh", "text"))
    text = "\n".join(block.source for block in shown)
    named = set(re.findall(r"(?:morphax (?:train|plan|coordinates)|python -m train) (\w+)(?=\s|$)", text))
    assert named - {"eval", "predict", "generate", "plan"} <= set(list_configs())


def test_versions_that_are_written_twice_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    files = (ROOT / "CITATION.cff", ROOT / ".pre-commit-config.yaml")
    citation, hooks = (path.read_text(encoding="utf-8") for path in files)
    assert re.findall(r"^version: (.+)$", citation, flags=re.MULTILINE) == [project["version"]]
    pinned = next(need for need in project["optional-dependencies"]["dev"] if need.startswith("ruff=="))
    assert re.findall(r"^ +rev: v(\S+)", hooks, flags=re.MULTILINE) == [pinned.removeprefix("ruff==")]


PLANTED = {
    "a block that fails": "```python\nassert 1 + 1 == 3\n```\n",
    "a command that fails": "```sh\nmorphax train nowhere\n```\n",
    "a command that should fail": "```sh\nmorphax data list || true\n```\n",
    "a command of the shell that fails": "```sh\ntest -e nowhere > /dev/null\n```\n",
}


@pytest.mark.parametrize("text", PLANTED.values(), ids=PLANTED)
def test_a_page_that_does_not_work_fails(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(AssertionError):
        run(blocks(page), tmp_path, monkeypatch)


def test_a_useless_block_and_a_broken_link_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    text = "# A page\n[one](page.md#a-page) [two](page.md#nothing) [three](other.md)\n```\nx\n```\n"
    page.write_text(text, encoding="utf-8")
    monkeypatch.setattr("tests.pages.ROOT", tmp_path)
    assert broken(page) == ["page: page.md#nothing", "page: other.md"]
    with pytest.raises(ValueError, match="page.md, line 4: a block of no language"):
        _ = [block.use for block in blocks(page)]


def test_blocks_share_a_folder_and_a_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    code = "```csv rows.csv\na,b\n```\n```python\nrows = open('rows.csv').read()\n```\n```python\nrows += 'x'\n```\n"
    page.write_text(code, encoding="utf-8")
    assert run(blocks(page), tmp_path, monkeypatch)["rows"] == "a,b\nx"
