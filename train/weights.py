"""Pretrained initial parameters."""

import dataclasses
from typing import Protocol, runtime_checkable

import jax

from models.contracts import Model
from models.families.folder import read_hf
from models.transformer import Transformer
from train.contracts import Start
from train.data.published import locate


@runtime_checkable
class FromFolder(Protocol):
    """Initial parameters that are read from the files of a `folder`."""

    @property
    def folder(self) -> str: ...


@dataclasses.dataclass(frozen=True)
class HuggingFace:
    """Parameters from a folder with `config.json` and `model.safetensors`, or from `package:NAME/path`.

    The latter is the folder of a published package.  The body must have the model's structure, unless `fit` is set:
    then parameters that fit a changed structure are loaded, such as another mixer in some layers, fewer layers, another
    norm or a head of another size, and the rest is initialised.
    """

    folder: str
    fit: bool = False

    def load(self, model: Model, key: jax.Array) -> Start:
        """Loads the parameters; those of a new head are initialised from the key."""
        if not isinstance(model, Transformer):
            raise ValueError(f"HuggingFace weights load into a Transformer; this model is a {type(model).__name__}.")
        loaded = read_hf(locate(self.folder), model, key, self.fit)
        return Start(loaded.params, loaded.fresh, loaded.unused)
