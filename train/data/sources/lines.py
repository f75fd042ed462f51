"""Plain text: an example for each line that is not empty, in the column `text`."""

from train.data.readers.formats import read_text
from train.data.sources import Format
from train.data.split import Split


def read(path: str) -> Split:
    """Reads the lines of a text file, without line ends."""
    return Split([{"text": line.removesuffix("\r")} for line in read_text(path).split("\n") if line.strip()], path, {})


LINES = Format((".txt",), read)
