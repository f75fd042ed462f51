"""Parquet files, and folders of files of one table, as pandas, Spark, polars and `datasets` write them."""

import datetime
import decimal
import json
from collections.abc import Mapping
from pathlib import Path

from train.data.sources import Example, Format, Split, import_extra
from train.errors import InputError

INDEX = "__index_level_"  # columns of pandas' row index


def read(path: str) -> Split:
    """Reads the rows, timestamps as ISO 8601 and decimals as floats; files of `datasets` have class names.

    Raises InputError if pyarrow is absent, and if the file is absent or not Parquet.
    """
    parquet = import_extra("pyarrow.parquet", "parquet", f"{path} is Parquet, whose reading")
    arrow = import_extra("pyarrow", "parquet", f"{path} is Parquet, whose reading")
    source = Path(path).expanduser()
    if not source.exists():
        raise InputError(f"{path} cannot be read: No such file or directory.")
    try:
        names = parquet.read_schema(source).names if source.is_file() else []
        if len(set(names)) < len(names):
            raise InputError(f"{path} names a column twice: {', '.join(names)}; rename one.")
        table = parquet.read_table(source)
        columns = [name for name in table.column_names if not name.startswith(INDEX)]
        rows = table.select(columns).to_pylist()
    except (arrow.ArrowException, OSError, ValueError) as error:  # InputError is a ValueError
        if isinstance(error, InputError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"{path} cannot be read as Parquet ({reason}); write it again.") from None
    return Split([convert_row(row) for row in rows], path, _read_class_names(table.schema.metadata or {}))


def convert_row(row: Mapping[str, object]) -> Example:
    """Converts a row to the types of other formats: text and numbers."""
    return {name: _convert_cell(value) for name, value in row.items()}


def _convert_cell(value: object) -> object:
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    return float(value) if isinstance(value, decimal.Decimal) else value


def _read_class_names(metadata: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """Reads class names by column, which `datasets` keeps in the metadata."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        named = {name: feature["names"] for name, feature in features.items() if feature.get("_type") == "ClassLabel"}
    except (ValueError, LookupError, AttributeError, TypeError):
        return {}
    return {name: tuple(map(str, names)) for name, names in named.items()}


PARQUET = Format((".parquet", ".pq"), read)
