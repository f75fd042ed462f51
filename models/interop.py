"""Hugging Face folders in and out, by the families' rule tables; safetensors only, so nothing that is loaded can run code."""

import dataclasses
import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from models.families import bert
from models.stack import Stack, scanned, unrolled
from models.structure import differences, replace
from models.tensors import Tensors
from models.transformer import Transformer
from models.words import brief, gathered, listed

FAMILIES: tuple[ModuleType, ...] = (bert,)
POSITIONS = "embed/position/table"  # whose rows stand each for themselves
logger = logging.getLogger("morphax")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Weights read from a folder: the model they fit, its parameters, what of it is fresh, and what of the file is unused."""

    model: Transformer
    params: dict[str, Any]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]


def load_hf(
    folder: str | Path, model: Transformer | None = None, key: jax.Array | None = None, fit: bool = False
) -> tuple[Transformer, dict[str, Any]]:
    """A model and its parameters from a folder with `config.json` and `model.safetensors`.

    `model` is a structure to load into, such as a body with a new head; by default what the config describes.  Parameters of a
    head that the file does not hold are initialised from `key`; a warning names them, and the tensors that a model with a head does not
    use.  With `fit` the body may be another structure too, and what fits is loaded.  See `read_hf` for the errors.
    """
    loaded = read_hf(folder, model, key, fit)
    said = [("freshly initialised", loaded.fresh), ("unused", () if loaded.model.head is None and not fit else loaded.unused)]
    if words := [f"{what} {listed(gathered(names))}" for what, names in said if names]:
        logger.warning("Of the weights in %s: %s.", folder, "; ".join(words))
    return loaded.model, loaded.params


def read_hf(folder: str | Path, model: Transformer | None = None, key: jax.Array | None = None, fit: bool = False) -> Loaded:
    """As `load_hf`, and gives what is fresh and what is unused.

    Tensors of heads that the model lacks are unused.  All others must have their place, and every parameter of the body its tensor,
    unless `fit` is set: then parameters without a tensor of their shape are fresh, and tensors without a place are unused; of a longer
    table of positions the first are taken.

    Raises FileNotFoundError for a folder without the files; ValueError for a key of the config that cannot be used, for a file that is
    no safetensors, and one ValueError that lists what is missing, unexpected and misshapen, or with `fit` if nothing fits.
    """
    folder = Path(folder)
    config = read_config(folder)
    family = next((family for family in FAMILIES if config.get("model_type") == family.MODEL_TYPE), None)
    if family is None:
        known = ", ".join(family.MODEL_TYPE for family in FAMILIES)
        raise ValueError(f"{folder / 'config.json'} has model_type {brief(config.get('model_type'))}; known are {known}.")
    try:
        described: Transformer = family.from_config(config)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'} cannot be used: {error}") from None
    tensors = Tensors(folder)
    names = {_bare(name, family): name for name in tensors}
    if twice := [name for name in tensors if names[_bare(name, family)] != name]:
        raise ValueError(f"The weights in {folder} hold under two names what is one: {listed(twice)}; save them again.")
    described = family.untied(described, lambda name: tensors.read(names[name]) if name in names else None)
    model = described if model is None else model
    loop = replace(model, "stack.scan", False)
    match = _match(family, config, tensors, names, loop, fit)
    if not fit and (refusal := match.refusal()):
        raise ValueError(
            f"The weights in {folder} do not fit this model: {refusal}; to load what fits and start the rest anew, set initial.fit=true"
            " (in Python fit=True)."
        )
    if not match.sources:
        raise ValueError(f"Of the weights in {folder} nothing fits this model; leave them out, or give a structure that shares some.")
    if changed := changes(described, model):
        logger.warning("The weights in %s were trained in another structure: %s.", folder, listed(changed, room=400))
    found: dict[str, Any] = {}
    for path, (name, transposed) in match.sources.items():
        array = tensors.read(name)
        array = array.T if transposed else array
        found[path] = jnp.asarray(array[: match.expected[path][0]] if path == POSITIONS else array)
    fresh = tuple(path for path in match.expected if path not in found)
    if fresh:

        def draw(key: jax.Array) -> dict[str, jax.Array]:  # compiled, so that nothing but what is fresh is computed
            start = _flat(loop.init(key, {"tokens": jnp.zeros((1, 2), jnp.int32)}))
            return {path: start[path] for path in fresh}

        found |= jax.jit(draw)(jax.random.key(0) if key is None else key)
    params = traverse_util.unflatten_dict(found, sep="/")
    if model.stack.scan:
        params["stack"] = scanned(params["stack"], model.stack)
    return Loaded(model, params, fresh, match.unused)


@dataclasses.dataclass(frozen=True)
class _Match:
    """Parameters and tensors put together: `expected` path -> shape; `sources` path -> (tensor, transposed)."""

    expected: dict[str, tuple[int, ...]]
    sources: dict[str, tuple[str, bool]]
    misfits: dict[str, str]  # path -> what the tensor of another shape is
    foreign: dict[str, str]  # path -> the tensor of its name that serves another task
    unexpected: tuple[str, ...]  # tensors of the body without a place
    unused: tuple[str, ...]  # all tensors without a place

    def refusal(self) -> str:
        """Lists what does not fit, apart from heads that one of the two lacks."""
        missing = [path for path in self.expected if path not in self.sources | self.misfits and not path.startswith("head/")]
        parts = [
            ("misshapen", list(self.misfits.values())),
            ("of another task", list(self.foreign.values())),
            ("missing", missing),
            ("unexpected", list(self.unexpected)),
        ]
        return "; ".join(f"{len(found)} {what}: {listed(gathered(found), room=300)}" for what, found in parts if found)


def _match(
    family: ModuleType, config: Mapping[str, Any], tensors: Tensors, names: Mapping[str, str], model: Transformer, fit: bool
) -> _Match:
    tokens = {"tokens": jax.ShapeDtypeStruct((1, 2), jnp.int32)}
    try:
        variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
    except KeyError as error:
        raise ValueError(f"These weights are a text model's, and this model needs {error} in a batch; leave initial out.") from None
    expected = {path: tuple(leaf.shape) for path, leaf in _flat(variables).items()}
    places = {_counted(path, model.stack): path for path in expected}
    foreign = family.foreign(config, model)
    sources: dict[str, tuple[str, bool]] = {}
    misfits: dict[str, str] = {}
    elsewhere: dict[str, str] = {}
    tried: dict[str, str] = {}
    for theirs, ours, transposed in family.rules(model, config):
        for counted, layer in _layers(ours, places):
            path, name = places[counted], names.get(theirs.format(layer))
            if name is None or path in sources or path in misfits or path in elsewhere:
                continue
            tried[path], shape = name, tensors.shape(name)
            shape = shape[::-1] if transposed else shape
            if theirs.startswith(foreign):
                elsewhere[path] = name
            elif shape == expected[path] or (fit and path == POSITIONS and shape[1:] == expected[path][1:] and shape > expected[path]):
                sources[path] = name, transposed
            else:
                misfits[path] = f"{name} gives {shape} for {path} of shape {expected[path]}"
    used = {name for name, _ in sources.values()}
    misshapen = {name for path, name in tried.items() if path in misfits}
    unused = [bare for bare, name in names.items() if name not in used and not bare.startswith(family.IGNORED)]
    unused = [bare for bare in unused if not _repeated(bare, family, tensors, names, used)]
    unexpected = [names[bare] for bare in unused if names[bare] not in misshapen and _of_body(bare, names[bare], family)]
    return _Match(expected, sources, misfits, elsewhere, tuple(unexpected), tuple(names[bare] for bare in unused))


def _bare(name: str, family: ModuleType) -> str:
    """A tensor's name without the prefix of the body, by the names of today."""
    bare = name.removeprefix(family.PREFIX)
    for old, new in family.RENAMED.items():
        bare = bare.replace(old, new)
    return bare


def _of_body(bare: str, name: str, family: ModuleType) -> bool:
    """Whether a tensor is of the body, and of no head."""
    return bare.startswith(family.BODY) or (bare != name and name.startswith(family.PREFIX) and not bare.startswith(family.POOLER))


def _repeated(bare: str, family: ModuleType, tensors: Tensors, names: Mapping[str, str], used: set[str]) -> bool:
    """Whether a tensor has the values of a used one that it stands for."""
    other = names.get(family.REPEATS.get(bare, ""))
    return other is not None and other in used and np.array_equal(tensors.read(names[bare]), tensors.read(other))


def _counted(path: str, stack: Stack) -> str:
    """A parameter's path with its layer counted from the first block of the stack, its prefix and what is tied included."""
    first = len(stack.prefix)
    path = re.sub(r"^stack/layer_(\d+)/", lambda match: f"stack/layer_{first + int(match[1])}/", path)
    path = re.sub(r"^stack/blocks/block_(\d+)/", lambda match: f"stack/layer_{first + int(match[1])}/", path)
    return re.sub(r"^stack/first_(\d+)/", r"stack/layer_\1/", path)


def changes(described: Transformer, model: Transformer) -> list[str]:
    """Where the body of a model computes something else than the one described; dropout, depth wiring and the head may differ."""
    found = differences(replace(described, "head", None), replace(model, "head", None))
    free = ("dropout", "stack.scan", "stack.remat")
    return [f"{path} is {brief(ours)} and was {brief(theirs)}" for path, theirs, ours in found if not path.endswith(free)]


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
    for theirs, ours, transposed in family.written(model):
        for path, layer in _layers(ours, flat):
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
    except (ValueError, RecursionError) as error:  # of bytes, of JSON, and of numbers or brackets without end
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


def _layers(ours: str, flat: Iterable[str]) -> list[tuple[str, str]]:
    """The paths of a parameter tree that a rule's path stands for, each with its layer."""
    pattern = re.compile(re.escape(ours).replace(r"\{\}", r"(\d+)"))
    return [(path, "".join(match.groups())) for path in flat if (match := pattern.fullmatch(path))]


def _flat(variables: Any) -> dict[str, Any]:
    """Parameters by their path."""
    return traverse_util.flatten_dict(variables["params"], sep="/")
