"""Formats that a trained run is delivered in, one file each: StableHLO, safetensors, Hugging Face, ONNX."""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Collection
from pathlib import Path

from models.words import join
from train.errors import InputError
from train.use.delivery import Delivery, Program


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of artefacts, called `name`; `says` is what `export.json` says of its files.

    write(delivery, folder): writes the files into an empty folder; returns which named axes of the inputs are symbolic.
    load(delivery, folder): reads them back; what is returned computes outputs by name from arrays of a batch by name.
    `write` raises InputError, before it writes anything, for a run that the format cannot hold.  `quantizes` names the
    methods of quantisation that it holds.
    """

    name: str
    says: str
    write: Callable[[Delivery, Path], Collection[str]]
    load: Callable[[Delivery, Path], Program]
    quantizes: tuple[str, ...] = ()


@functools.cache
def list_formats() -> dict[str, Format]:
    """Lists the formats that the files here define, by name."""
    files = [importlib.import_module(f"{__name__}.{entry.name}") for entry in pkgutil.iter_modules(__path__)]
    formats = [value for file in files for value in vars(file).values() if isinstance(value, Format)]
    return {value.name: value for value in formats}


def find_format(name: str) -> Format:
    """Finds a format by its name.  Raises InputError if there is none."""
    if name not in list_formats():
        raise InputError(f"--to is {name!r}, which is no format; give one of {join(list_formats())}.")
    return list_formats()[name]
