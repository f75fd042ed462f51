"""Parquet: columns with types, as pandas, Spark, polars and `datasets` write them; a file, or a folder of files of one
table.
"""

import datetime
import decimal
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.data.readers.formats import Example
from train.data.sources import Format, needs
from train.data.split import Split
from train.errors import InputError

INDEX = "__index_level_"  # columns in which pandas keeps the numbers of rows


def read(path: str) -> Split:
    """The rows, with times as ISO 8601 and decimals as floats; classes are named where `datasets` wrote them.

    Raises InputError where pyarrow is absent, and for what is absent or no Parquet.
    """
    parquet: Any = needs("pyarrow.parquet", "parquet", f"{path} is Parquet, whose reading")
    arrow: Any = needs("pyarrow", "parquet", f"{path} is Parquet, whose reading")
    place = Path(path).expanduser()
    if not place.exists():
        raise InputError(f"{path} cannot be read: No such file or directory.")
    try:
        names = parquet.read_schema(place).names if place.is_file() else []
        if len(set(names)) < len(names):
            raise InputError(f"{path} names a column twice: {', '.join(names)}; rename one.")
        found = parquet.read_table(place)
        columns = [name for name in found.column_names if not name.startswith(INDEX)]
        rows = found.select(columns).to_pylist()
    except (arrow.ArrowException, OSError, ValueError) as error:  # InputError is a ValueError
        if isinstance(error, InputError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"{path} cannot be read as Parquet ({reason}); write it again.") from None
    return Split([plain(row) for row in rows], path, _classes(found.schema.metadata or {}))


def plain(row: Mapping[str, Any]) -> Example:
    """A row in the types that every other format gives."""
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    return float(value) if isinstance(value, decimal.Decimal) else value


def _classes(metadata: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """The names of classes by column, which `datasets` keeps beside the schema."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        named = {name: feature["names"] for name, feature in features.items() if feature.get("_type") == "ClassLabel"}
    except (ValueError, LookupError, AttributeError, TypeError):
        return {}
    return {name: tuple(map(str, names)) for name, names in named.items()}


PARQUET = Format((".parquet", ".pq"), read)
