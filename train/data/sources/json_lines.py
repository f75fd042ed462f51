"""JSON lines: an object in each line."""

from train.data.readers.formats import parse_json_lines, read_text
from train.data.sources import Format
from train.data.split import Split

JSON_LINES = Format((".jsonl", ".json"), lambda path: Split(list(parse_json_lines(read_text(path), path)), path, {}))
