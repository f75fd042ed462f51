"""Hugging Face folders in and out, by the families' rule tables; safetensors only, so nothing that is loaded can run code."""

import dataclasses
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from models.families import bert
from models.stack import scanned, unrolled
from models.structure import differences, replace
from models.transformer import Transformer

FAMILIES: tuple[ModuleType, ...] = (bert,)
logger = logging.getLogger("morphax")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Weights read from a folder: the model they fit, its parameters, what of it is fresh, and what of the file is unused."""

    model: Transformer
    params: dict[str, Any]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]


def load_hf(folder: str | Path, model: Transformer | None = None, key: jax.Array | None = None) -> tuple[Transformer, dict[str, Any]]:
    """A model and its parameters from a folder with `config.json` and `model.safetensors`.

    `model` is a structure to load into, such as a body with a new head; by default what the config describes.  Parameters of a
    head that the file does not hold are initialised from `key`, and a warning names them.  See `read_hf` for the errors.
    """
    loaded = read_hf(folder, model, key)
    if loaded.fresh:
        logger.warning("Freshly initialised, since %s does not hold them: %s.", folder, ", ".join(loaded.fresh))
    return loaded.model, loaded.params


def read_hf(folder: str | Path, model: Transformer | None = None, key: jax.Array | None = None) -> Loaded:
    """As `load_hf`, and says what is fresh and what is unused.

    Raises FileNotFoundError for a folder without the files; ValueError for a file that is no safetensors, and one ValueError that
    lists every missing, unexpected and misshapen tensor.
    """
    folder = Path(folder)
    config = read_config(folder)
    family = next((family for family in FAMILIES if config.get("model_type") == family.MODEL_TYPE), None)
    if family is None:
        known = ", ".join(family.MODEL_TYPE for family in FAMILIES)
        raise ValueError(f"{folder / 'config.json'} has model_type {config.get('model_type')!r}; known are {known}.")
    try:
        described: Transformer = family.from_config(config)
    except KeyError as error:
        raise ValueError(f"{folder / 'config.json'} has no {error} key, which a {family.MODEL_TYPE} config needs.") from None
    model = described if model is None else model
    if changed := changes(described, model):
        logger.warning("The weights in %s were trained in another structure: %s.", folder, "; ".join(changed))
    loop = replace(model, "stack.scan", False)
    variables = jax.eval_shape(loop.init, jax.random.key(0), {"tokens": jax.ShapeDtypeStruct((1, 2), jnp.int32)})
    expected = traverse_util.flatten_dict(variables["params"], sep="/")
    tensors, unused = _read_tensors(folder, family, expected)
    fresh = tuple(path for path in expected if path not in tensors)
    if fresh:

        def draw(key: jax.Array) -> dict[str, jax.Array]:  # compiled, so that nothing but what is fresh is computed
            start: dict[str, Any] = traverse_util.flatten_dict(loop.init(key, {"tokens": jnp.zeros((1, 2), jnp.int32)})["params"], sep="/")
            return {path: start[path] for path in fresh}

        tensors |= jax.jit(draw)(jax.random.key(0) if key is None else key)
    params = traverse_util.unflatten_dict(tensors, sep="/")
    if model.stack.scan:
        params["stack"] = scanned(params["stack"], model.stack)
    return Loaded(model, params, fresh, unused)


def changes(described: Transformer, model: Transformer) -> list[str]:
    """Where the body of a model computes something else than the one described; dropout, depth wiring and the head may differ."""
    found = differences(replace(described, "head", None), replace(model, "head", None))
    free = ("dropout", "stack.scan", "stack.remat")
    return [f"{path} is {ours!r} and was {theirs!r}" for path, theirs, ours in found if not path.endswith(free)]


def save_hf(model: Transformer, params: Mapping[str, Any], folder: str | Path, labels: tuple[str, ...] = ()) -> None:
    """Writes `config.json` and `model.safetensors` that `transformers` loads.  `labels` names the classes.

    Raises ValueError, with the first difference, where the structure is of no known family.
    """
    family, config = _family_of(model)
    if labels:
        config["id2label"] = {str(index): name for index, name in enumerate(labels)}
        config["label2id"] = {name: index for index, name in enumerate(labels)}
    loop = {**params, "stack": unrolled(params["stack"], model.stack)}
    flat: dict[str, Any] = traverse_util.flatten_dict(loop, sep="/")
    tensors: dict[str, np.ndarray] = {}
    for theirs, ours, transposed in family.RULES:
        for path, layer in _matches(ours, flat):
            name = theirs.format(layer)
            bare = model.head is None or name.startswith(family.HEADS)
            array = np.asarray(flat[path])
            tensors[name if bare else family.PREFIX + name] = np.ascontiguousarray(array.T if transposed else array)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's `config.json`.  Raises FileNotFoundError or ValueError in one sentence."""
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json; give a folder saved by save_pretrained, with safetensors weights.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}, where an object of settings is expected.")
    return config


def _family_of(model: Transformer) -> tuple[ModuleType, dict[str, Any]]:
    reasons: list[str] = []
    for family in FAMILIES:
        try:
            return family, family.to_config(model)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(f"This structure has no Hugging Face form: {' '.join(reasons)}")


def _files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        try:
            return [folder / name for name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))]
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ValueError(f"{index} has no readable weight_map; save the weights again with save_pretrained.") from None
    raise FileNotFoundError(
        f"{folder} has no model.safetensors; pickled weights are not read: save them again with safe_serialization=True."
    )


def _read_tensors(folder: Path, family: ModuleType, expected: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Our path -> array, and their names that this model has no place for; one error for everything that does not fit."""
    found: dict[str, Any] = {}
    unused: list[str] = []
    unexpected: list[str] = []
    misshapen: dict[str, str] = {}
    rules = [(re.compile(re.escape(theirs).replace(r"\{\}", r"(\d+)")), ours, transposed) for theirs, ours, transposed in family.RULES]
    for file in _files(folder):
        try:
            with safe_open(file, framework="np") as handle:
                for name in list(handle.keys()):
                    bare = name.removeprefix(family.PREFIX)
                    for old, new in family.RENAMED.items():
                        bare = bare.replace(old, new)
                    match = next(((m, ours, transposed) for rule, ours, transposed in rules if (m := rule.fullmatch(bare))), None)
                    if match is None:
                        if not bare.startswith(family.IGNORED):
                            unexpected.append(name)
                        continue
                    path = match[1].format(*match[0].groups())
                    if path not in expected:
                        (unused if path.startswith("head/") else unexpected).append(name)
                        continue
                    array = handle.get_tensor(name)
                    array = array.T if match[2] else array
                    if array.shape != expected[path].shape:
                        misshapen[path] = f"{name} gives {array.shape} for {path} of shape {expected[path].shape}"
                    else:
                        found[path] = jnp.asarray(array, jnp.float32)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} cannot be read as safetensors ({error}); download or save it again.") from None
    missing = [path for path in expected if path not in found and path not in misshapen and not path.startswith("head/")]
    if misshapen or missing or unexpected:
        parts = [("misshapen", list(misshapen.values())), ("missing", missing), ("unexpected", unexpected)]
        listed = "; ".join(f"{len(names)} {what}: {', '.join(names)}" for what, names in parts if names)
        raise ValueError(f"The weights in {folder} do not fit this model: {listed}.")
    return found, tuple(unused)


def _matches(ours: str, flat: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The paths of a parameter tree that a rule's path stands for, each with its layer."""
    pattern = re.compile(re.escape(ours).replace(r"\{\}", r"(\d+)"))
    return [(path, "".join(match.groups())) for path in flat if (match := pattern.fullmatch(path))]
