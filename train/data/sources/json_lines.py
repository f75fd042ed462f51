"""JSON lines: small files in memory, large ones by the offset of each line."""

import array
import json
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

from train.data.lazy import Lazy
from train.data.sources import Example, Format, Split
from train.data.sources.text_files import MARKS, read_text
from train.errors import InputError

DECODER = json.JSONDecoder()
LARGE = 2**22  # bytes of a file whose rows are not kept


def parse_json_lines(text: str, path: str) -> Iterator[Example]:
    """Yields the objects of JSON lines.  Raises InputError, with the line, for a line that is not an object."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _parse_line(line, path, number)


def _parse_line(line: str, path: str, number: int) -> Example:
    try:
        row = json.loads(line)
        if "\\u" in line and "\\ud" in line.lower():  # an escape that may be half a surrogate pair
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{path}, line {number}, has half a surrogate pair, which is no character; remove it."
        ) from None
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", str(error).partition(";")[0])
        raise InputError(f"{path}, line {number}, is not JSON ({reason}); {_explain_line(line)}.") from None
    if not isinstance(row, dict):
        raise InputError(f"{path}, line {number}, holds a {type(row).__name__}; {_explain_line(line)}.")
    return row


def _explain_line(line: str) -> str:
    array = line.lstrip().startswith("[")
    return "each line must be one object" + (", as `jq -c '.[]'` makes them of an array" if array else "")


class Lines:
    """The objects of the lines of a file in UTF-8: what is kept is 8 bytes a line, their offsets.

    Every line is parsed once to check it, and again whenever it is asked for.  Raises InputError for a line that is not
    an object, UnicodeDecodeError for one that is not UTF-8, OSError for a file that cannot be read, and InputError for
    a file that changes while it is open.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.starts = array.array("q")
        self.file = os.open(Path(path).expanduser(), os.O_RDONLY)
        weakref.finalize(self, os.close, self.file)
        self.state = self._read_state()
        start = 0
        with os.fdopen(os.dup(self.file), "rb") as lines:
            for number, line in enumerate(lines, 1):
                text = _decode(line, start)
                if text.strip():
                    _parse_line(text.removesuffix("\n"), path, number)
                    self.starts.append(start)
                start += len(line)
        self.count = len(self.starts)
        self.starts.append(start)

    def parse(self, index: int) -> Example:
        """Parses a line that is not empty."""
        start = self.starts[index]
        line = os.pread(self.file, self.starts[index + 1] - start, start)
        if self._read_state() != self.state:
            raise InputError(f"{self.path} has changed while it was read; run the same command again.")
        return _read_object(_decode(line.partition(b"\n")[0], start))

    def walk(self) -> Iterator[Example]:
        """Parses all lines in their order."""
        start = 0
        with open(os.dup(self.file), "rb") as lines:
            lines.seek(0)
            for line in lines:
                text = _decode(line, start).strip()
                start += len(line)
                if text:
                    yield _read_object(text)
        if self._read_state() != self.state:
            raise InputError(f"{self.path} has changed while it was read; run the same command again.")

    def _read_state(self) -> tuple[int, int]:
        state = os.fstat(self.file)
        return state.st_size, state.st_mtime_ns


def _read_object(line: str) -> Example:
    """Reads the object of a line that is known to have one, as `json.loads` does."""
    return DECODER.raw_decode(line, line.index("{"))[0]


def _decode(line: bytes, start: int) -> str:
    """Decodes a line, without the byte order marks with which it and the file may begin."""
    return line.decode("utf-8" if start else "utf-8-sig").removeprefix("\ufeff")


def read(path: str) -> Split:
    """Reads the rows; those of a file of `LARGE` bytes or more stay in it.  Raises InputError as `read_text` does."""
    try:
        with Path(path).expanduser().open("rb") as file:
            head = file.read(LARGE)
        if len(head) == LARGE and b"\n" in head and not head.startswith(tuple(MARKS)):
            lines = Lines(path)
            return Split(Lazy(lines.count, lines.parse, lines.walk), path, {})
    except (OSError, RuntimeError, ValueError):  # what is wrong with the file is said below
        pass
    return Split(list(parse_json_lines(read_text(path), path)), path, {})


JSON_LINES = Format((".jsonl", ".json"), read)
