"""Intermediate values of any model by path: captured, or replaced while the rest is computed.

A path names the output of a module: `embed`, `stack`, `stack.3` (the state after block 3), `head`, and within a block
`stack.3.mixer`, `stack.3.mixer.weigh` or `stack.3.mixer_residual.norm`.  Blocks are counted from 0 over the whole
depth, prefix included, whether the stack is a loop, scanned or tied.  `:input` after a path is the module's first
argument, as in `stack.3.mixer.out:input`; the empty path is the model's output.  If a module is called several times,
its calls are counted: `embed@0`, `embed@1`.  The value of an embed or of a block is without its context, that of a
layer without its values for later layers.

In a pattern `*` stands for any part of a name and `**` for any number of names: `stack.*.mixer`, `**.weigh`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core.scope import CollectionFilter, in_filter, union_filters

from models.context import Decoding
from models.contracts import Batch, Model, Tree
from models.inspect.watch import INPUT, KEPT, Change, Site, Watch
from models.structure import nearest
from models.words import join, merge_layers

Key = tuple[str, str, int]  # a path, the suffix of its site, and which of the module's calls


class Applies(Protocol):
    """A module that is called by `apply`, with any arguments."""

    def apply(self, variables: Tree, *args: Tree, rngs: dict[str, jax.Array] | None = None, **kwargs: Tree) -> Tree: ...


def capture(
    model: Model,
    params: Tree,
    batch: Batch,
    *patterns: str,
    cache: Tree | None = None,
    decoding: Decoding | None = None,
    changes: Mapping[str, Change | Tree] | None = None,
) -> dict[str, Tree]:
    """Captures the intermediate values whose paths match one of the patterns, by path.

    `capture(model, params, batch, "stack.*.mixer")`.  A pure function; nothing else than a forward pass is computed.
    With `decoding` the batch continues the rows of `cache`, as in `models.decoding.sampling.advance`; with `changes`
    the values are those of the model that `patch` runs.  Attention runs as its equation says while it is watched, not
    by a fused kernel.

    Raises LookupError, naming the nearest path and those that exist, for a pattern that matches none.
    """
    variables = {"params": params} | ({} if cache is None else {"cache": cache})
    keywords = {} if decoding is None else {"decoding": decoding, "mutable": ["cache"]}
    shapes = trace(model, variables, batch, **keywords)
    keys = {key_of(path)[:2] for path in select_paths(patterns, shapes)}

    def wanted(site: Site) -> bool:
        return not keys.isdisjoint((path, site.suffix) for path in site.paths.flat)

    _, values = _run(model, variables, (batch,), keywords, resolve(changes or {}, shapes), wanted)
    return {path: values[path] for path in select_paths(patterns, values)}


def patch(model: Model, params: Tree, batch: Batch, changes: Mapping[str, Change | Tree]) -> Tree:
    """Computes the outputs of a model with some intermediate values replaced.

    `changes` maps paths, or patterns of paths, to the new value or to a function of the value as computed:
    `patch(model, params, batch, {"stack.3.mixer": jnp.zeros_like})`.  A pure function, differentiable in params, batch
    and new values.  Causal interventions on a model's computation: Geiger et al. 2021, arXiv:2106.02997.

    Raises LookupError for a path that does not exist, and ValueError for a value of another shape and for two changes
    of one value.
    """
    return Patched(model, changes).apply({"params": params}, batch)


@dataclasses.dataclass(frozen=True, eq=False)
class Patched:
    """A model in which some intermediate values are replaced, as a model: for `generate` and whatever else runs one.

    Its parameters are those of `model`.  While decoding a change acts on the values of the new tokens, and has to be a
    function, since prompts and single tokens have values of other shapes.
    """

    model: Model
    changes: Mapping[str, Change | Tree]

    def __call__(self, batch: Batch, train: bool = False, decoding: Decoding | None = None) -> Tree:
        """The call of the model; it needs a bound module, so use `apply`."""
        return self.model(batch, train, decoding)

    def init(self, rngs: jax.Array, *args: Tree, **kwargs: Tree) -> Tree:
        """Initialises the parameters of the model."""
        return self.model.init(rngs, *args, **kwargs)

    def apply(self, variables: Tree, *args: Tree, rngs: dict[str, jax.Array] | None = None, **kwargs: Tree) -> Tree:
        """Applies the model with its changes."""
        keywords = kwargs if rngs is None else {**kwargs, "rngs": rngs}
        shapes = trace(self.model, variables, *args, **keywords)
        return substitute(self.model, variables, args, resolve(self.changes, shapes), keywords)

    def __getattr__(self, name: str) -> object:
        """Parts of the model."""
        return getattr(self.model, name)


def trace(module: Applies, variables: Tree, *args: Tree, **keywords: Tree) -> dict[str, Tree]:
    """The path of every intermediate value with its shape, blocks by number; nothing is computed."""
    shapes = jax.eval_shape(lambda *inputs: observe(module, *inputs, keywords=keywords), variables, args)
    return {path: shapes[path] for path in sorted(shapes, key=by_depth)}


def observe(
    module: Applies,
    variables: Tree,
    args: tuple[Tree, ...],
    wanted: Callable[[Site], bool] = lambda _: True,
    keywords: Mapping[str, Tree] | None = None,
) -> dict[str, Tree]:
    """The intermediate values, by path, of any module called with these arguments."""
    return _run(module, variables, args, keywords, {}, wanted)[1]


def _run(
    module: Applies,
    variables: Tree,
    args: tuple[Tree, ...],
    keywords: Mapping[str, Tree] | None,
    changes: Mapping[str, Change],
    wanted: Callable[[Site], bool],
) -> tuple[Tree, dict[str, Tree]]:
    """The result of `module.apply` with the values at these paths, which exist, changed, and the wanted values."""
    known = {key_of(path): change for path, change in changes.items()}
    called = {key[:2] for key in known}
    sites: dict[tuple[tuple[str, ...], str], Site] = {}

    def visit(site: Site, value: Tree) -> Tree:
        kept = wanted(site) and _are_arrays(value)
        if called.intersection((path, site.suffix) for path in site.paths.flat):
            before = len(site.module.variables.get(KEPT, {}).get(_sown(site), ()))  # calls of the module so far
            value = site.choose([known.get((path, site.suffix, before)) for path in site.paths.flat], value)
            if not kept:
                site.module.sow(KEPT, _sown(site), jnp.zeros(()))
        if kept:
            sites[site.module.path, site.suffix] = site
            site.module.sow(KEPT, _sown(site), value)
        return value

    keywords = dict(keywords or {})
    mutable: CollectionFilter = keywords.pop("mutable", False)
    with nn.intercept_methods(Watch(visit)):
        result, state = module.apply(variables, *args, mutable=union_filters(mutable, KEPT), **keywords)
    values: dict[str, Tree] = {}
    for (path, suffix), site in sites.items():
        kept = state.get(KEPT, {})
        for name in (*path, _sown(site)):
            kept = kept.get(name, {})
        for number, value in enumerate(kept):  # none within a user's own scan that keeps no intermediates
            call = f"@{number}" if len(kept) > 1 else ""
            for row, name in enumerate(site.paths.flat):
                values[f"{name}{call}{suffix}"] = site.at(row, value)
    if mutable is not False:
        result = result, {name: value for name, value in state.items() if in_filter(mutable, name)}
    return result, {path: values[path] for path in sorted(values, key=by_depth)}


def by_depth(path: str) -> list[tuple[int, str]]:
    """A key that sorts paths by name, and blocks by number: a compiled function gives them by letter."""
    return [(int(name), "") if name.isdecimal() else (-1, name) for name in path.split(".")]


def substitute(
    module: Applies,
    variables: Tree,
    args: tuple[Tree, ...],
    changes: Mapping[str, Change],
    keywords: Mapping[str, Tree] | None = None,
) -> Tree:
    """The result of `module.apply` with the values at these paths, which exist, changed."""
    return _run(module, variables, args, keywords, changes, lambda _: False)[0]


def resolve(changes: Mapping[str, Change | Tree], shapes: Mapping[str, Tree]) -> dict[str, Change]:
    """The function that changes the value at each path that a pattern of `changes` matches."""
    by: dict[str, str] = {}
    for pattern in changes:
        for path in select_paths([pattern], shapes):
            if path in by:
                raise ValueError(f"{path!r} is replaced by {by[path]!r} and by {pattern!r}; leave one of them out.")
            by[path] = pattern
    functions = {pattern: _make_change(pattern, new) for pattern, new in changes.items()}
    return {path: functions[pattern] for path, pattern in by.items()}


def _make_change(path: str, new: Change | Tree) -> Change:
    def change(old: Tree) -> Tree:
        value = new(old) if callable(new) else new
        left, right = (jax.tree.map(jnp.shape, tree) for tree in (value, old))
        if jax.tree.structure(value) != jax.tree.structure(old) or left != right:
            raise ValueError(
                f"The new value of {path!r} has shape {left}, and the value that it replaces {right}; give one of that"
                " shape."
            )
        return jax.tree.map(lambda leaf, before: jnp.asarray(leaf).astype(before.dtype), value, old)

    return change


def select_paths(patterns: Iterable[str], paths: Iterable[str]) -> list[str]:
    """The paths that match a pattern, in their order.  Raises LookupError for a pattern that matches none."""
    paths, chosen = list(paths), set[str]()
    for pattern in patterns:
        matches = {path for path in paths if _matches(pattern, path)}
        if not matches:
            named = [path for path in paths if path and path.endswith(INPUT) == pattern.endswith(INPUT)]
            hint = nearest(pattern, named).removesuffix(".")
            listed = join(merge_layers([path for path in named if not path.endswith(INPUT)]), room=300)
            raise LookupError(
                f"{pattern!r} matches no intermediate value of the model; {hint}"
                + (f" The paths are {listed}." if hint.endswith("?") and listed else "" if hint.endswith("?") else ".")
            )
        chosen |= matches
    return [path for path in paths if path in chosen]


def _matches(pattern: str, path: str) -> bool:
    if not (pattern and path):
        return pattern == path
    left, right = pattern.removesuffix(INPUT), path.removesuffix(INPUT)
    return (left == pattern) == (right == path) and _match_parts(left.split("."), right.split("."))


def _match_parts(pattern: list[str], path: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_match_parts(pattern[1:], path[index:]) for index in range(len(path) + 1))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and _match_parts(pattern[1:], path[1:])


def key_of(path: str) -> Key:
    """The parts of a path: without its suffix and its call, the suffix, and the number of the call."""
    plain = path.removesuffix(INPUT)
    name, _, number = plain.partition("@")
    return name, path[len(plain) :], int(number or 0)


def _sown(site: Site) -> str:
    return "__input__" if site.suffix else "__call__"


def _are_arrays(value: Tree) -> bool:
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(isinstance(leaf, jax.Array) for leaf in leaves)
