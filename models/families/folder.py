"""Hugging Face folders in and out, by the families' rule tables; safetensors only, so nothing loaded can run code."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from models.contracts import Tree
from models.depth.stack import scanned, unrolled
from models.families.family import Family, Rule, families, number_blocks
from models.families.tensors import Tensors
from models.structure import differences, replace
from models.transformer import Transformer
from models.words import join, merge_layers, shorten

POSITIONS = "embed/position/table"  # a longer table may be cut to its first rows
logger = logging.getLogger("morphax")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Weights read from a folder: the model they fit, its parameters, fresh parameters, and unused tensors."""

    model: Transformer
    params: dict[str, Tree]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]


def load_hf(
    folder: str | Path,
    model: Transformer | None = None,
    key: jax.Array | None = None,
    fit: bool = False,
    family: Family | None = None,
) -> tuple[Transformer, dict[str, Tree]]:
    """A model and its parameters from a folder with `config.json` and `model.safetensors`.

    `model` is a structure to load into, such as a body with a new head; by default what the config describes.
    Parameters of a head that the file does not hold are initialised from `key`; a warning names them, and the tensors
    that a model with a head does not use.  With `fit` the body may be another structure too, and what fits is loaded.
    `family` is that of the folder; by default the one of its model_type among those of `models/families`.  See
    `read_hf` for the errors.
    """
    loaded = read_hf(folder, model, key, fit, family)
    lists = [
        ("freshly initialised", loaded.fresh),
        ("unused", () if loaded.model.head is None and not fit else loaded.unused),
    ]
    if words := [f"{what} {join(merge_layers(names))}" for what, names in lists if names]:
        logger.warning("Of the weights in %s: %s.", folder, "; ".join(words))
    return loaded.model, loaded.params


def read_hf(
    folder: str | Path,
    model: Transformer | None = None,
    key: jax.Array | None = None,
    fit: bool = False,
    family: Family | None = None,
) -> Loaded:
    """Loads as `load_hf` does, and also gives the fresh parameters and the unused tensors.

    Tensors of heads that the model lacks are unused.  All others must have their place, and every parameter of the body
    its tensor, unless `fit` is set: then parameters without a tensor of their shape are fresh, and tensors without a
    place are unused; of a longer table of positions the first are taken.

    Raises FileNotFoundError for a folder without the files; ValueError for a key of the config that cannot be used, for
    a file that is no safetensors, and one ValueError that lists what is missing, unexpected and misshapen, or with
    `fit` if nothing fits.
    """
    folder = Path(folder)
    config = read_config(folder)
    family = family or next((known for known in families() if config.get("model_type") == known.model_type), None)
    if family is None or config.get("model_type") != family.model_type:
        known = ", ".join(known.model_type for known in ((family,) if family else families()))
        raise ValueError(
            f"{folder / 'config.json'} has model_type {shorten(config.get('model_type'))}; known are {known}."
        )
    try:
        described: Transformer = family.build(config)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'} cannot be used: {error}") from None
    tensors = Tensors(folder)
    bare = family.names.bare
    names = {bare(name): name for name in tensors}
    if twice := [name for name in tensors if names[bare(name)] != name]:
        raise ValueError(f"The weights in {folder} hold under two names what is one: {join(twice)}; save them again.")
    described = family.settle(described, lambda name: tensors.read(names[name]) if name in names else None)
    model = described if model is None else model
    loop = replace(model, "stack.scan", False)
    match = _match(family, config, tensors, names, loop, fit)
    if not fit and (refusal := match.refusal()):
        raise ValueError(
            f"The weights in {folder} do not fit this model: {refusal}; to load what fits and start the rest anew,"
            " set initial.fit=true (in Python fit=True)."
        )
    if not match.sources:
        raise ValueError(
            f"Of the weights in {folder} nothing fits this model; leave them out, or give a structure that shares some."
        )
    if changed := changes(described, model):
        logger.warning("The weights in %s were trained in another structure: %s.", folder, join(changed, room=400))
    flat: dict[str, jax.Array] = {}
    for source in dict.fromkeys(match.sources.values()):  # once each, even if it gives several parameters
        arrays = source.rule.read(tuple(tensors.read(name) for name in source.names))
        for path, array in zip(source.paths, arrays, strict=True):
            if match.sources.get(path) == source:
                flat[path] = jnp.asarray(array[: match.expected[path][0]] if path == POSITIONS else array)
    fresh = tuple(path for path in match.expected if path not in flat)
    if fresh:

        def draw(key: jax.Array) -> dict[str, jax.Array]:  # compiled, so that fresh parameters alone are computed
            start = _flat(loop.init(key, {"tokens": jnp.zeros((1, 2), jnp.int32)}))
            return {path: start[path] for path in fresh}

        flat |= jax.jit(draw)(jax.random.key(0) if key is None else key)
    params = traverse_util.unflatten_dict(flat, sep="/")
    if model.stack.scan:
        params["stack"] = scanned(params["stack"], model.stack)
    return Loaded(model, params, fresh, match.unused)


@dataclasses.dataclass(frozen=True)
class _Source:
    """Source of parameters: a rule, the names of its tensors in the file, and its paths, "" for one not there."""

    rule: Rule
    names: tuple[str, ...]
    paths: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Match:
    """Parameters and tensors put together: `expected` path -> shape; `sources` path -> its source."""

    expected: dict[str, tuple[int, ...]]
    sources: dict[str, _Source]
    misfits: dict[str, str]  # path -> the tensor of another shape, described
    foreign: dict[str, str]  # path -> the tensor of its name, of another task
    unexpected: tuple[str, ...]  # tensors of the body without a parameter
    unused: tuple[str, ...]  # all tensors without a parameter

    def refusal(self) -> str:
        """Lists what does not fit, apart from heads that one of the two lacks."""
        missing = [
            path for path in self.expected if path not in self.sources | self.misfits and not path.startswith("head/")
        ]
        parts = [
            ("misshapen", list(self.misfits.values())),
            ("of another task", list(self.foreign.values())),
            ("missing", missing),
            ("unexpected", list(self.unexpected)),
        ]
        return "; ".join(
            f"{len(names)} {what}: {join(merge_layers(names), room=300)}" for what, names in parts if names
        )


def _match(
    family: Family,
    config: Mapping[str, object],
    tensors: Tensors,
    names: Mapping[str, str],
    model: Transformer,
    fit: bool,
) -> _Match:
    tokens = {"tokens": jax.ShapeDtypeStruct((1, 2), jnp.int32)}
    try:
        variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
    except KeyError as error:
        raise ValueError(
            f"These weights are a text model's, and this model needs {error} in a batch; leave initial out."
        ) from None
    expected = {path: tuple(leaf.shape) for path, leaf in _flat(variables).items()}
    numbered = {number_blocks(path, len(model.stack.prefix)): path for path in expected}
    foreign = family.foreign(config, model)
    sources: dict[str, _Source] = {}
    misfits: dict[str, str] = {}
    elsewhere: dict[str, str] = {}
    tried: dict[str, tuple[str, ...]] = {}
    for rule in family.rules(model, config):
        for theirs, ours in rule.places(model.stack.depth):
            paths = tuple(numbered.get(path, "") for path in ours)
            wanted = [
                path for path in paths if path and not any(path in known for known in (sources, misfits, elsewhere))
            ]
            if not wanted or not all(name in names for name in theirs):
                continue
            source = _Source(rule, tuple(names[name] for name in theirs), paths)
            source_names, shapes = " and ".join(source.names), [tensors.shape(name) for name in source.names]
            tried |= dict.fromkeys(wanted, source.names)
            try:
                made = dict(zip(paths, rule.shapes(shapes), strict=True))
            except ValueError as error:
                misfits |= dict.fromkeys(wanted, f"{source_names} of shape {' and '.join(map(str, shapes))}: {error}")
                continue
            for path in wanted:
                if any(name.startswith(foreign) for name in theirs):
                    elsewhere[path] = source_names
                elif made[path] == expected[path] or (fit and _longer(path, made[path], expected[path])):
                    sources[path] = source
                else:
                    misfits[path] = f"{source_names} gives {made[path]} for {path} of shape {expected[path]}"
    # a fused tensor is used only if all its parameters exist
    whole = [source for source in sources.values() if fit or all(source.paths)]
    used = {name for source in whole for name in source.names}
    misshapen = {name for path, source_names in tried.items() if path in misfits for name in source_names}
    unused = [bare for bare, name in names.items() if name not in used and not bare.startswith(family.names.ignored)]
    unused = [bare for bare in unused if not _is_repeat(bare, family, tensors, names, used)]
    unexpected = [
        names[bare] for bare in unused if names[bare] not in misshapen and family.names.of_body(bare, names[bare])
    ]
    return _Match(expected, sources, misfits, elsewhere, tuple(unexpected), tuple(names[bare] for bare in unused))


def _longer(path: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """True for the shape of a table of more positions than a model has."""
    return path == POSITIONS and shape[1:] == expected[1:] and shape > expected


def _is_repeat(bare: str, family: Family, tensors: Tensors, names: Mapping[str, str], used: set[str]) -> bool:
    """Tells if a tensor repeats the values of a used one under a second name."""
    other = names.get(family.names.repeats.get(bare, ""))
    return other is not None and other in used and np.array_equal(tensors.read(names[bare]), tensors.read(other))


def changes(described: Transformer, model: Transformer) -> list[str]:
    """Lists differences that change what a model's body computes; dropout, scan, remat and the head may differ."""
    differing = differences(replace(described, "head", None), replace(model, "head", None))
    free = ("dropout", "stack.scan", "stack.remat")
    return [
        f"{path} is {shorten(ours)} and was {shorten(theirs)}"
        for path, theirs, ours in differing
        if not path.endswith(free)
    ]


def save_hf(
    model: Transformer,
    params: Mapping[str, Tree],
    folder: str | Path,
    labels: tuple[str, ...] = (),
    family: Family | None = None,
) -> None:
    """Writes `config.json` and `model.safetensors` that `transformers` loads.  `labels` names the classes.

    Raises ValueError, with the first difference, if the structure is of no known family, or not of the one that is
    given, and for parameters that no rule of the family writes.
    """
    family, config = _family_of(model, families() if family is None else (family,))
    if labels:
        config["id2label"] = {str(index): name for index, name in enumerate(labels)}
        config["label2id"] = {name: index for index, name in enumerate(labels)}
    loop = {**params, "stack": unrolled(params["stack"], model.stack)}
    flat: dict[str, Tree] = traverse_util.flatten_dict(loop, sep="/")
    numbered = {number_blocks(path, len(model.stack.prefix)): path for path in flat}
    tensors: dict[str, np.ndarray] = {}
    left = set(numbered)
    for rule in family.rules(model, config):
        for theirs, ours in rule.places(model.stack.depth) if rule.written else ():
            if not all(path in numbered for path in ours):
                continue
            left -= set(ours)
            for name, array in zip(
                theirs, rule.write(tuple(np.asarray(flat[numbered[path]]) for path in ours)), strict=True
            ):
                bare = model.head is None or name.startswith(family.names.heads)
                tensors[name if bare else family.names.prefix + name] = np.ascontiguousarray(array)
    if left:
        names = join(merge_layers(sorted(left)))
        raise ValueError(f"No rule of the family {family.model_type} writes {names}; add one to its file.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_config(folder: Path) -> dict[str, object]:
    """The folder's `config.json`.  Raises FileNotFoundError or ValueError in one sentence."""
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no config.json; give a folder saved by save_pretrained, with safetensors weights."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # bytes that are no text, no JSON, endless numbers or brackets
        raise ValueError(f"{path} is not JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}; it must hold an object of settings.")
    return config


def _family_of(model: Transformer, known: tuple[Family, ...]) -> tuple[Family, dict[str, object]]:
    reasons: list[str] = []
    for family in known:
        try:
            return family, {"model_type": family.model_type, **family.describe(model)}
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(f"This structure has no Hugging Face form: {' '.join(reasons)}")


def _flat(variables: Tree) -> dict[str, Tree]:
    """Parameters by their path."""
    return traverse_util.flatten_dict(variables["params"], sep="/")
