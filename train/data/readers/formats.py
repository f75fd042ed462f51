"""Formats of text files: the encoding of a file, JSON lines, and tables with or without quotation marks."""

import csv
import datetime
import io
import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from train.data.notes import Note
from train.errors import InputError

Example = dict[str, Any]
# the longest first
MARKS = {b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
DELIMITERS = ",;\t|"


def content(path: str) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 if it begins with their byte order mark; its lines end in
    line feeds, before which carriage returns may stand.

    Raises InputError, with a command that mends it, for another encoding and for NUL bytes, and if the file cannot be
    read.
    """
    try:
        data = Path(path).expanduser().read_bytes()
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {os.strerror(error.errno or 0)}.") from None
    encoding = next((encoding for mark, encoding in MARKS.items() if data.startswith(mark)), "utf-8-sig")
    if encoding == "utf-8-sig" and b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        sixteen = {0: "UTF-16BE", 1: "UTF-16LE"}.get(data[:2].find(b"\0"))
        if sixteen is not None:
            raise InputError(
                f"{path}, line {line}, has NUL bytes; if it is {sixteen}, convert it: {_converted(sixteen, path)}."
            )
        raise InputError(
            f"{path}, line {line}, has a NUL byte; remove it: `tr -d '\\000' < {shlex.quote(path)} > {_beside(path)}`."
        )
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        if encoding != "utf-8-sig":
            raise InputError(
                f"{path} begins as {encoding.upper()} and is damaged at byte {error.start}; save it again as UTF-8."
            ) from None
        raise InputError(f"{path}, line {line}, is not UTF-8; {converts(data, path)}.") from None
    # of files that were put together
    text = re.sub("^\ufeff", "", text, flags=re.MULTILINE) if "\ufeff" in text else text
    return text if "\n" in text else text.replace("\r", "\n")


def converts(data: bytes, path: str) -> str:
    """Words of a sentence: the command that makes UTF-8 of a text in the likeliest other encoding of western Europe."""
    try:
        data.decode("cp1252")
        encoding = "WINDOWS-1252" if any(0x80 <= byte < 0xA0 for byte in data) else "ISO-8859-1"
    except UnicodeDecodeError:
        encoding = "ISO-8859-1"
    return f"if it is {encoding} (Latin-1), convert it: {_converted(encoding, path)}"


def _converted(encoding: str, path: str) -> str:
    return f"`iconv -f {encoding} -t UTF-8 {shlex.quote(path)} > {_beside(path)}`"


def _beside(path: str) -> str:
    """A name for the mended file."""
    place = Path(path)
    return shlex.quote(str(place.with_name(f"{place.stem}.utf8{place.suffix}")))


def json_lines(text: str, path: str) -> Iterator[Example]:
    """The objects of JSON lines.  Raises InputError, with the line, for what is no object."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if "\\ud" in line.lower():  # an escape that may be half a character
                json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise InputError(
                f"{path}, line {number}, has half a surrogate pair, which is no character; remove it."
            ) from None
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", str(error).partition(";")[0])
            raise InputError(f"{path}, line {number}, is not JSON ({reason}); {_each(line)}.") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}, holds a {type(row).__name__}; {_each(line)}.")
        yield row


def _each(line: str) -> str:
    array = line.lstrip().startswith("[")
    return "each line must be one object" + (", as `jq -c '.[]'` makes them of an array" if array else "")


class Row(NamedTuple):
    """A row of a table: its cells, and the first and the last line of the file that it takes."""

    first: int
    last: int
    cells: list[str]


class Table(NamedTuple):
    """The rows of a table by the names of their columns, what lies between its cells, and what was decided to read
    it.
    """

    examples: list[Example]
    delimiter: str
    notes: tuple[Note, ...] = ()


def table(text: str, path: str, delimiters: str = DELIMITERS) -> Table:
    """The rows of a table whose first row names its columns, between the first of the `delimiters` that this row has.

    Quotation marks hold a cell together, doubled ones inside it.  In a table between tabs they are part of the text
    instead if they open or close something else than whole cells, or would join lines that are rows by themselves; a
    note says so. Raises InputError, with the line, for a row that has too few or too many cells, and for marks that can
    be read in two ways.
    """
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a whole document may be one field
    first = next((line for line in io.StringIO(text) if line.strip()), "")
    delimiter = next((mark for mark in delimiters if mark in first), delimiters[0])
    rows, notes = _quoted(text, path, delimiter) if '"' in text else (_rows(text, path, delimiter, csv.QUOTE_NONE), ())
    start = next((place for place, row in enumerate(rows) if any(map(str.strip, row.cells))), len(rows))
    header = [name.strip() for name in rows[start].cells] if start < len(rows) else []
    body = [row for row in rows[start + 1 :] if row.cells]
    for row in body:
        if len(row.cells) != len(header):
            raise InputError(
                f"{path}, line {row.last}, has {len(row.cells)} fields and the first row names {len(header)};"
                " quote a field that holds the delimiter, or add what is missing."
            )
    if len(set(header)) < len(header):
        examples = [{str(place): cell for place, cell in enumerate(row.cells)} for row in body]
        if unnamed(header, examples):
            raise InputError(f"{path} {names_missing(path, header, examples, delimiter, {})}.")
        raise InputError(f"{path} names a column twice in its first row: {', '.join(header)}; rename one.")
    return Table([dict(zip(header, row.cells, strict=True)) for row in body], delimiter, notes)


def _rows(text: str, path: str, delimiter: str, quoting: Any) -> list[Row]:
    rows: list[Row] = []
    reader, last = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, quoting=quoting), 0
    try:
        for cells in reader:
            rows.append(Row(last + 1, reader.line_num, cells))
            last = reader.line_num
    except csv.Error as error:
        raise InputError(
            f"{path}, line {last + 1}, is not well-formed: {error}; close a quotation mark at the end of its field,"
            " double one inside."
        ) from None
    return rows


def _quoted(text: str, path: str, delimiter: str) -> tuple[list[Row], tuple[Note, ...]]:
    """The rows of a table that has quotation marks, and a note if these are read as text."""
    plain = _rows(text, path, delimiter, csv.QUOTE_NONE)
    lines = {row.first: row.cells for row in plain}
    header = next(row.cells for row in plain if any(map(str.strip, row.cells)))
    even = all(len(row.cells) == len(header) for row in plain if row.cells) and not any(
        cell.startswith('"') for cell in header
    )
    try:
        rows = _rows(text, path, delimiter, csv.QUOTE_MINIMAL)
    except InputError:
        if delimiter == "\t" and even:
            return plain, (
                Note(path, "quotation marks are read as part of the text, as they do not hold whole fields"),
            )
        raise
    width = len(header)
    joined = [row for row in rows if row.last > row.first and len(lines[row.first]) == width == len(lines[row.last])]
    if joined:
        inside = {line for row in joined for line in range(row.first, row.last + 1)}
        said = _alike(
            [lines[line] for line in sorted(inside) if lines[line]],
            [row.cells for row in plain if row.first not in inside][1:],
        )
        one = joined[0]
        between = f"line {one.first} opens a quotation mark that line {one.last} closes, and both are rows of {width}"
        between += " fields by themselves"
        if delimiter == "\t" and even and width > 1 and said is not False:
            return plain, (Note(path, f"quotation marks are read as part of the text: {between}"),)
        if delimiter == "\t" or said:
            raise InputError(
                f'{path}, {between}; double a mark that is text ("") and quote its field, or write the rows as JSON'
                " lines."
            )
    elif delimiter == "\t" and even and any(not _whole(cell) for row in plain for cell in row.cells if '"' in cell):
        return plain, (Note(path, "quotation marks are read as part of the text, as not all hold whole fields"),)
    return rows, ()


def _whole(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', "")


def _alike(some: Sequence[Sequence[str]], others: Sequence[Sequence[str]]) -> bool | None:
    """Whether rows look like others by a column of numbers or of few values; False if a column says that they do not,
    None if none says.

    Rows with an empty cell, or with a doubled quotation mark as programs write it, do not.
    """
    if any(not cell.strip() or '""' in cell for row in some for cell in row):
        return False
    said: list[bool] = []
    for place in range(len(some[0])):
        here = [row[place].strip() for row in some if place < len(row)]
        there = [row[place].strip() for row in others if place < len(row)]
        if there and all(map(_number, there)):
            said.append(all(map(_number, here)))
        elif there and len(set(there)) <= len(there) // 2 and (set(here) <= set(there) or set(there).isdisjoint(here)):
            said.append(set(here) <= set(there))
    return all(said) if said else None


def _number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _time(cell: str) -> bool:
    try:
        datetime.datetime.fromisoformat(cell)
    except ValueError:
        return False
    return True


def unnamed(header: Sequence[str], examples: Sequence[Example]) -> bool:
    """Whether the first row of a table is data rather than the names of columns: a cell is a number, a time, a value or
    a sentence as those below it are.
    """
    rows = examples[:1000]
    for name, column in zip(header, zip(*(row.values() for row in rows), strict=True), strict=False):
        cells = [str(cell).strip() for cell in column]
        if any(kind(name) and all(map(kind, cells)) for kind in (_number, _time)):
            return True
        if name in cells or (len(name.split()) > 3 and sum(len(cell.split()) > 3 for cell in cells) * 2 > len(cells)):
            return True
    return False


def names_missing(
    path: str, header: Sequence[str], examples: Sequence[Example], delimiter: str, columns: dict[str, str]
) -> str:
    """Words of a sentence: a table lacks the row of names, and the command that adds it; `columns` are wanted, by their
    settings.
    """
    cells = [[str(cell) for cell in column] for column in zip(*(row.values() for row in examples[:1000]), strict=True)]
    names = [f"column{place + 1}" for place in range(len(header))]
    free = list(range(len(header)))
    for setting, column in columns.items():
        if not free:
            break
        if setting == "text":
            place = max(free, key=lambda place: sum(map(len, cells[place])) if cells else 0)
        elif setting == "target":
            place = min(free, key=lambda place: len(set(cells[place])) if cells else 0)
        else:
            place = free[0]
        free.remove(place)
        names[place] = column
    row = shlex.quote(delimiter.join(names).replace("%", "%%").replace("\t", "\\t") + "\\n")
    new = Path(path).with_name(f"{Path(path).stem}.named{Path(path).suffix}")
    first = ", ".join(cell if len(cell) < 30 else f"{cell[:27]}..." for cell in header)
    return (
        f"has no row of column names, as its first row ({first}) is like those below it; add one, such as"
        f" `printf {row} | cat - {shlex.quote(path)} > {shlex.quote(str(new))}`"
    )
