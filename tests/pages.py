"""Pages of documentation and their code blocks: what each block is, and a run of all blocks of a page in order.

A fenced block is

    ```python          run, in one namespace a page
    ```sh              run line by line; a line that ends in `|| true` must fail
    ```python name.py  written to the file name.py of the page's folder, as ```csv name.csv and any other language are
    ```text            shown and not run; one that begins with `morphax: ` is what the failing command before it says
    ```{name}          of the site: no code
"""

import contextlib
import dataclasses
import io
import os
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from train.cli import COMMANDS, main

ROOT = Path(__file__).parent.parent
OPENING, CLOSING = r"^(?P<fence>`{3,})(?P<info>[^`\n]*)\n", r"^(?P=fence)[ \t]*$"
FENCE = re.compile(rf"{OPENING}(?P<source>.*?){CLOSING}", flags=re.MULTILINE | re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: its page, number of its first line, language, name of its file if it is one, and source."""

    page: Path
    line: int
    language: str
    file: str
    source: str

    @property
    def use(self) -> str:
        """The block's use: site, file, python, sh or shown.  Raises ValueError if the block does not say."""
        if self.language.startswith("{"):
            return "site"
        if self.file:
            return "file"
        uses = {"python": "python", "sh": "sh", "text": "shown"}
        if self.language not in uses:
            raise ValueError(
                f"{self.page.name}, line {self.line}: a block of {self.language or 'no language'} is neither run nor"
                " shown; give python or sh, a name of a file, or text."
            )
        return uses[self.language]


def pages() -> list[Path]:
    """Every page that has code: docs/ and the README."""
    site = (path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)
    return [ROOT / "README.md", *sorted(site)]


def name_of(page: Path) -> str:
    """A page as it is called in a test: howto/resume."""
    return str(page.relative_to(ROOT / "docs" if page.is_relative_to(ROOT / "docs") else ROOT).with_suffix(""))


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    for match in FENCE.finditer(text):
        language, _, file = match["info"].strip().partition(" ")
        line = text.count("\n", 0, match.start("source")) + 1
        found.append(Block(page, line, language, "" if language.startswith("{") else file.strip(), match["source"]))
    return found


def run(
    code: Sequence[Block], folder: Path, patch: pytest.MonkeyPatch, shorter: Mapping[str, Sequence[str]] | None = None
) -> dict[str, object]:
    """Runs blocks in a folder, which is where they write; gives what the Python of the page defined.

    `shorter` are arguments that cut commands short, by a command and what it is about: `train tiny_lm`.
    """
    module = types.ModuleType("page")
    patch.setitem(sys.modules, "page", module)
    patch.chdir(folder)
    patch.syspath_prepend(folder)
    before, said = set(sys.modules), ""
    try:
        for block in code:
            if block.use == "file":
                path = folder / block.file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.source, encoding="utf-8")
            elif block.use == "python":
                exec(compile("\n" * (block.line - 1) + block.source, block.page, "exec"), vars(module))
            elif block.use == "sh":
                for number, line in commands(block):
                    said = _command(line, f"{block.page.name}, line {number}", shorter or {})
            elif block.source.startswith("morphax: "):
                assert block.source.split() == said.split(), f"{block.page.name}, line {block.line}: it says\n{said}"
    finally:
        for name in set(sys.modules) - before:  # files of this folder, which the next page may call as its own
            if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
                del sys.modules[name]
    return vars(module)


def commands(block: Block) -> list[tuple[int, str]]:
    """The commands of a block with the numbers of their lines; a line that ends in a backslash goes on."""
    found: list[tuple[int, str]] = []
    waiting = ""
    for number, line in enumerate(block.source.splitlines(), block.line):
        waiting += line
        if waiting.endswith("\\"):
            waiting = waiting[:-1]
        elif waiting.strip() and not waiting.lstrip().startswith("#"):
            found.append((number, waiting.strip()))
            waiting = ""
        else:
            waiting = ""
    return found


def _command(line: str, where: str, shorter: Mapping[str, Sequence[str]]) -> str:
    """Runs a command; gives what it writes to standard error."""
    fails = line.endswith("|| true")
    words = shlex.split(line.removesuffix("|| true"), comments=True)
    given = words[1:] if words[0] == "morphax" else words[3:] if words[:3] == ["python", "-m", "train"] else None
    if given is None or any(word in ("<", ">", "|", "&&") for word in words):
        code, said = _shell(line)
    else:
        with contextlib.redirect_stderr(io.StringIO()) as stream:
            code = main(_shortened(given, shorter))
        said = stream.getvalue()
    assert (code == 0) != fails, f"{where}: `{line}` exits with {code}\n{said}"
    return said


def _shortened(given: list[str], shorter: Mapping[str, Sequence[str]]) -> list[str]:
    """A command with the arguments that make it shorter, if there are any for it."""
    command = given if given[0] in COMMANDS else ["train", *given]
    about = next((word for word in command[1:] if not word.startswith("-")), "")
    more = shorter.get(f"{command[0]} {about}", ())
    paths = {text.partition("=")[0] for text in more if "=" in text}
    return [word for word in command if word.partition("=")[0] not in paths] + list(more)


def _shell(line: str) -> tuple[int, str]:
    """The exit code and the standard error of a command of the shell, with this checkout as `morphax` and `python`."""
    ours = f'python() {{ "{sys.executable}" "$@"; }}; morphax() {{ python -m train "$@"; }}; '
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    script, environment = ours + line.removesuffix("|| true"), os.environ | {"PYTHONPATH": path}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stderr
