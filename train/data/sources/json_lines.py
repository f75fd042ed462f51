"""JSON lines: one object a line."""

from train.data.readers.formats import content, json_lines
from train.data.sources import Format
from train.data.split import Split

JSON_LINES = Format((".jsonl", ".json"), lambda path: Split(list(json_lines(content(path), path)), path, {}))
