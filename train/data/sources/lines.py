"""Plain text: one example a line, empty ones left out, in the column `text`."""

from train.data.readers.formats import content
from train.data.sources import Format
from train.data.split import Split


def read(path: str) -> Split:
    """The lines, without their ends."""
    return Split([{"text": line.removesuffix("\r")} for line in content(path).split("\n") if line.strip()], path, {})


LINES = Format((".txt",), read)
