"""Tensors of a folder of safetensors files, whole or in shards, read one by one."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

REAL = {"F64": "np", "F32": "np", "F16": "np", "BF16": "flax"}  # types of parameters, and the framework that reads each


class Tensors:
    """Names of the tensors in a folder; `read` gives one as float32.

    Raises FileNotFoundError for a folder without safetensors, and ValueError for files that cannot be read as such.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, Path] = {}
        for file in _files(folder):
            try:
                with safe_open(file, framework="np") as handle:
                    self.files |= dict.fromkeys(handle.keys(), file)
            except (SafetensorError, OSError) as error:
                raise _unreadable(file, error) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without its values."""
        try:
            with safe_open(self.files[name], framework="np") as handle:
                return tuple(handle.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise _unreadable(self.files[name], error) from None

    def read(self, name: str) -> np.ndarray:
        """Reads a tensor as float32.

        Raises ValueError for one of integers or of quantised numbers, and for values that are not finite.
        """
        file = self.files[name]
        try:
            with safe_open(file, framework="np") as handle:
                kind = handle.get_slice(name).get_dtype()
            if kind not in REAL:
                raise ValueError(f"{file} holds {name} as {kind}; save the weights as one of {', '.join(REAL)}.")
            with safe_open(file, framework=REAL[kind]) as handle:
                array = np.asarray(handle.get_tensor(name), np.float32)
        except (SafetensorError, OSError) as error:
            raise _unreadable(file, error) from None
        if not np.isfinite(array).all():
            raise ValueError(f"{file} holds values in {name} that are not finite; download or save it again.")
        return array


def _unreadable(file: Path, error: Exception) -> ValueError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ValueError(f"{file} cannot be read as safetensors ({reason}); download or save it again.")


def _files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        try:
            return [
                folder / name
                for name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            ]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise ValueError(
                f"{index} has no readable weight_map; save the weights again with save_pretrained."
            ) from None
    raise FileNotFoundError(
        f"{folder} has no model.safetensors; pickled weights are not read: save them again with"
        " safe_serialization=True."
    )
