"""Text files: their encoding, lines, and tables with or without quotation marks."""

import codecs
import csv
import datetime
import io
import itertools
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from train.data.notes import Note
from train.data.sources import Example, Format, Split
from train.errors import InputError

# byte order marks, the longest first
MARKS = {b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
DELIMITERS = ",;\t|"


def read_text(path: str) -> str:
    """Reads a text file in UTF-8, or in UTF-16 or UTF-32 if it begins with their byte order mark.

    Lines of the text end in line feeds, which carriage returns may precede.  Raises InputError if the file cannot be
    read, and, with a command that mends it, for another encoding and for NUL bytes.
    """
    try:
        data = Path(path).expanduser().read_bytes()
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {os.strerror(error.errno or 0)}.") from None
    encoding = _find_encoding(data)
    if encoding == "utf-8-sig" and b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        sixteen = {0: "UTF-16BE", 1: "UTF-16LE"}.get(data[:2].find(b"\0"))
        if sixteen is not None:
            command = _format_conversion(sixteen, path)
            raise InputError(f"{path}, line {line}, has NUL bytes; if it is {sixteen}, convert it: {command}.")
        command = f"`tr -d '\\000' < {shlex.quote(path)} > {_name_converted(path)}`"
        raise InputError(f"{path}, line {line}, has a NUL byte; remove it: {command}.")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        if encoding != "utf-8-sig":
            raise InputError(
                f"{path} begins as {encoding.upper()} and is damaged at byte {error.start}; save it again as UTF-8."
            ) from None
        raise InputError(f"{path}, line {line}, is not UTF-8; {suggest_conversion(data, path)}.") from None
    # concatenated files have a mark each
    text = re.sub("^\ufeff", "", text, flags=re.MULTILINE) if "\ufeff" in text else text
    return text if "\n" in text else text.replace("\r", "\n")


def _find_encoding(data: bytes) -> str:
    return next((encoding for mark, encoding in MARKS.items() if data.startswith(mark)), "utf-8-sig")


def suggest_conversion(data: bytes, path: str) -> str:
    """The clause of a message with the command that converts the likeliest western European encoding to UTF-8."""
    try:
        data.decode("cp1252")
        encoding = "WINDOWS-1252" if any(0x80 <= byte < 0xA0 for byte in data) else "ISO-8859-1"
    except UnicodeDecodeError:
        encoding = "ISO-8859-1"
    return f"if it is {encoding} (Latin-1), convert it: {_format_conversion(encoding, path)}"


def _format_conversion(encoding: str, path: str) -> str:
    return f"`iconv -f {encoding} -t UTF-8 {shlex.quote(path)} > {_name_converted(path)}`"


def _name_converted(path: str) -> str:
    """The quoted name of the mended file, beside the original."""
    file = Path(path)
    return shlex.quote(str(file.with_name(f"{file.stem}.utf8{file.suffix}")))


def read_whole(path: str) -> str:
    """Reads a text file with line feeds between lines.  Raises InputError if it is absent, empty or not UTF-8."""
    text = read_text(path).replace("\r\n", "\n")
    if not text.strip():
        raise InputError(f"{path} has no text; it needs some.")
    return text


def read_blocks(path: str, size: int = 2**20) -> Iterator[str]:
    """Yields the text that `read_whole` returns in blocks of about `size` bytes, in memory that stays the same.

    Raises InputError as `read_whole` does, if need be after some blocks.
    """
    try:
        ended = any("\n" in block for block in _decode(path, size))
        last, held, blank = "\n", "", True
        for block in itertools.chain(_decode(path, size), [None]):
            text = held + (block or "")
            held = "\r" if block is not None and text.endswith("\r") else ""  # a line feed may follow
            text = text.removesuffix(held)
            # concatenated files have a mark each
            whole = re.sub("(?<=\n)\ufeff", "", text.removeprefix("\ufeff") if last == "\n" else text)
            last = text[-1:] or last
            blank = blank and not whole.strip()
            yield whole.replace("\r\n", "\n") if ended else whole.replace("\r", "\n")
    except (OSError, RuntimeError, UnicodeError):
        read_whole(path)  # says what is wrong
        raise
    if blank:
        read_whole(path)


def _decode(path: str, size: int) -> Iterator[str]:
    with Path(path).expanduser().open("rb") as file:
        encoding = _find_encoding(file.read(4))
        file.seek(0)
        decoder = codecs.getincrementaldecoder(encoding)()
        while data := file.read(size):
            if encoding == "utf-8-sig" and b"\0" in data:
                raise UnicodeError("a NUL byte")
            yield decoder.decode(data)
        yield decoder.decode(b"", final=True)


def read_lines(path: str) -> list[str]:
    """Reads the lines of a text file, stripped, also empty lines.  Raises InputError as `read_whole` does."""
    return [line.strip() for line in read_whole(path).removesuffix("\n").split("\n")]


def read_sentences(path: str) -> Split:
    """Reads an example for each line that is not empty, without line ends, in the column `text`."""
    return Split([{"text": line.removesuffix("\r")} for line in read_text(path).split("\n") if line.strip()], path, {})


class Row(NamedTuple):
    """A row of a table: its cells, and the first and last of its lines in the file."""

    first: int
    last: int
    cells: list[str]


class Table(NamedTuple):
    """The rows of a table by column, its delimiter, and notes on how it was read."""

    examples: list[Example]
    delimiter: str
    notes: tuple[Note, ...] = ()


def parse_table(text: str, path: str, delimiters: str = DELIMITERS) -> Table:
    """Parses a table whose first row names its columns; the delimiter is the first of `delimiters` in that row.

    Cells may be quoted, with quotation marks inside doubled.  In a tab-separated table, quotation marks are part of the
    text if they do not enclose whole cells, or if they would join lines that are rows by themselves; a note says so.
    Raises InputError, with the line, for a row with too few or too many cells, and for ambiguous quotation marks.
    """
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a field may be a whole document
    first = next((line for line in io.StringIO(text) if line.strip()), "")
    delimiter = next((mark for mark in delimiters if mark in first), delimiters[0])
    rows, notes = (
        _parse_quoted(text, path, delimiter)
        if '"' in text
        else (_parse_rows(text, path, delimiter, csv.QUOTE_NONE), ())
    )
    start = next((index for index, row in enumerate(rows) if any(map(str.strip, row.cells))), len(rows))
    header = [name.strip() for name in rows[start].cells] if start < len(rows) else []
    body = [row for row in rows[start + 1 :] if row.cells]
    for row in body:
        if len(row.cells) != len(header):
            raise InputError(
                f"{path}, line {row.last}, has {len(row.cells)} fields and the first row names {len(header)};"
                " quote a field that holds the delimiter, or add what is missing."
            )
    if len(set(header)) < len(header):
        examples = [{str(column): cell for column, cell in enumerate(row.cells)} for row in body]
        if lacks_names(header, examples):
            raise InputError(f"{path} {explain_names(path, header, examples, delimiter, {})}.")
        raise InputError(f"{path} names a column twice in its first row: {', '.join(header)}; rename one.")
    return Table([dict(zip(header, row.cells, strict=True)) for row in body], delimiter, notes)


def _parse_rows(text: str, path: str, delimiter: str, quoting: Literal[0, 3]) -> list[Row]:
    rows: list[Row] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, quoting=quoting)
    last = 0
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


def _parse_quoted(text: str, path: str, delimiter: str) -> tuple[list[Row], tuple[Note, ...]]:
    """Parses a table that has quotation marks; returns its rows and a note if the marks are read as text."""
    plain = _parse_rows(text, path, delimiter, csv.QUOTE_NONE)
    lines = {row.first: row.cells for row in plain}
    header = next(row.cells for row in plain if any(map(str.strip, row.cells)))
    even = all(len(row.cells) == len(header) for row in plain if row.cells) and not any(
        cell.startswith('"') for cell in header
    )
    try:
        rows = _parse_rows(text, path, delimiter, csv.QUOTE_MINIMAL)
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
        said = _look_alike(
            [lines[line] for line in sorted(inside) if lines[line]],
            [row.cells for row in plain if row.first not in inside][1:],
        )
        row = joined[0]
        between = (
            f"line {row.first} opens a quotation mark that line {row.last} closes, and both are rows of {width} fields"
            " by themselves"
        )
        if delimiter == "\t" and even and width > 1 and said is not False:
            return plain, (Note(path, f"quotation marks are read as part of the text: {between}"),)
        if delimiter == "\t" or said:
            raise InputError(
                f'{path}, {between}; double a mark that is text ("") and quote its field, or write the rows as JSON'
                " lines."
            )
    elif delimiter == "\t" and even and any(not _is_quoted(cell) for row in plain for cell in row.cells if '"' in cell):
        return plain, (Note(path, "quotation marks are read as part of the text, as not all hold whole fields"),)
    return rows, ()


def _is_quoted(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', "")


def _look_alike(some: Sequence[Sequence[str]], others: Sequence[Sequence[str]]) -> bool | None:
    """Compares rows with others by their columns of numbers and of few values: alike, not alike, or None if unknown.

    Rows with an empty cell, or with a doubled quotation mark as programs write it, are not alike.
    """
    if any(not cell.strip() or '""' in cell for row in some for cell in row):
        return False
    alike: list[bool] = []
    for column in range(len(some[0])):
        here = [row[column].strip() for row in some if column < len(row)]
        there = [row[column].strip() for row in others if column < len(row)]
        if there and all(map(_is_number, there)):
            alike.append(all(map(_is_number, here)))
        elif there and len(set(there)) <= len(there) // 2 and (set(here) <= set(there) or set(there).isdisjoint(here)):
            alike.append(set(here) <= set(there))
    return all(alike) if alike else None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_time(cell: str) -> bool:
    try:
        datetime.datetime.fromisoformat(cell)
    except ValueError:
        return False
    return True


def lacks_names(header: Sequence[str], examples: Sequence[Example]) -> bool:
    """Tells if the first row of a table is data rather than column names: a cell resembles those below it.

    Both are numbers or timestamps, or the cell recurs below, or it is a sentence above sentences.
    """
    rows = examples[:1000]
    for name, column in zip(header, zip(*(row.values() for row in rows), strict=True), strict=False):
        cells = [str(cell).strip() for cell in column]
        if any(kind(name) and all(map(kind, cells)) for kind in (_is_number, _is_time)):
            return True
        if name in cells or (len(name.split()) > 3 and sum(len(cell.split()) > 3 for cell in cells) * 2 > len(cells)):
            return True
    return False


def explain_names(
    path: str, header: Sequence[str], examples: Sequence[Example], delimiter: str, columns: Mapping[str, str]
) -> str:
    """The clause of a message that a table lacks column names, with a command that adds them.

    `columns` are the names that it must have, by their settings.
    """
    cells = [[str(cell) for cell in column] for column in zip(*(row.values() for row in examples[:1000]), strict=True)]
    names = [f"column{index + 1}" for index in range(len(header))]
    free = list(range(len(header)))
    for setting, column in columns.items():
        if not free:
            break
        if setting == "text":
            chosen = max(free, key=lambda index: sum(map(len, cells[index])) if cells else 0)
        elif setting == "target":
            chosen = min(free, key=lambda index: len(set(cells[index])) if cells else 0)
        else:
            chosen = free[0]
        free.remove(chosen)
        names[chosen] = column
    row = shlex.quote(delimiter.join(names).replace("%", "%%").replace("\t", "\\t") + "\\n")
    new = Path(path).with_name(f"{Path(path).stem}.named{Path(path).suffix}")
    first = ", ".join(cell if len(cell) < 30 else f"{cell[:27]}..." for cell in header)
    return (
        f"has no row of column names, as its first row ({first}) is like those below it; add one, such as"
        f" `printf {row} | cat - {shlex.quote(path)} > {shlex.quote(str(new))}`"
    )


def read_table(path: str) -> Split:
    """Reads the rows below the header; the delimiter is the first of `DELIMITERS` in the header, or tabs in TSV."""
    delimiters = "\t" if Path(path).suffix.lower() == ".tsv" else DELIMITERS
    examples, delimiter, notes = parse_table(read_text(path), path, delimiters)

    def explain(columns: Mapping[str, str]) -> str:
        if not lacks_names(header := list(examples[0]), examples):
            return ""
        return f"{path} {explain_names(path, header, examples, delimiter, columns)}"

    return Split(examples, path, {}, notes=notes, unnamed=explain)


LINES = Format((".txt",), read_sentences)
TABLES = Format((".csv", ".tsv"), read_table)
