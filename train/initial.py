"""Where the first parameters come from, other than chance."""

import dataclasses
from typing import Any, Protocol

import jax

from models.contracts import Model
from models.interop import read_hf
from models.transformer import Transformer
from train.data.published import locate


class Initial(Protocol):
    """`load(model, key)` gives a model's parameters and the names of those that are fresh."""

    def load(self, model: Model, key: jax.Array) -> tuple[Any, tuple[str, ...]]: ...


@dataclasses.dataclass(frozen=True)
class HuggingFace:
    """Parameters from a folder with `config.json` and `model.safetensors`, or `package:NAME/path` for a published package's folder."""

    folder: str

    def load(self, model: Model, key: jax.Array) -> tuple[Any, tuple[str, ...]]:
        """Parameters that fit the model; those of a new head are initialised from the key."""
        if not isinstance(model, Transformer):
            raise ValueError(f"HuggingFace weights load into a Transformer; this model is a {type(model).__name__}.")
        loaded = read_hf(locate(self.folder), model, key)
        return loaded.params, loaded.fresh
