"""Tables: CSV, whose delimiter is the first of `DELIMITERS` in its first row, and TSV."""

from pathlib import Path

from train.data.readers.formats import DELIMITERS, parse_table, read_text
from train.data.sources import Format
from train.data.split import Split


def read(path: str) -> Split:
    """Reads the rows below the header."""
    delimiters = "\t" if Path(path).suffix.lower() == ".tsv" else DELIMITERS
    examples, delimiter, notes = parse_table(read_text(path), path, delimiters)
    return Split(examples, path, {}, notes=notes, delimiter=delimiter)


TABLES = Format((".csv", ".tsv"), read)
