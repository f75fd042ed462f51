"""Tables of text: CSV, whose cells lie between the first of `DELIMITERS` that its first row has, and TSV."""

from pathlib import Path

from train.data.readers.formats import DELIMITERS, content, table
from train.data.sources import Format
from train.data.split import Split


def read(path: str) -> Split:
    """The rows below the one that names the columns."""
    examples, delimiter, notes = table(content(path), path, "\t" if Path(path).suffix.lower() == ".tsv" else DELIMITERS)
    return Split(examples, path, {}, notes=notes, delimiter=delimiter)


TABLES = Format((".csv", ".tsv"), read)
