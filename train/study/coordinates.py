"""The coordinate check: how large activations are over widths or depths, in the standard parametrization and in muP.

Where they keep their size, rates and scales that were tuned on the smallest model serve the largest.  arXiv:2203.03466,
appendix D.1.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import rich.table

from models.attention.weigh import HIDDEN
from models.contracts import Weigh, kind_of
from models.depth.block import Block
from models.depth.stack import Stack
from models.parametrization import Parametrization, widen, width_of
from models.paths import Layer
from models.structure import fields
from train.engine.prepared import Prepared, prepare
from train.engine.requirements import settle
from train.errors import InputError, convert_errors
from train.experiment import Experiment
from train.optimizers import Constant

PARAMETRIZATIONS: tuple[Parametrization, ...] = ("standard", "mup")
Size = Literal["width", "depth"]
BRANCHES = ("mixer", "cross", "feedforward")
KINDS = ("embed", *BRANCHES, "scores", "stream", "head")
FLAT = 0.2  # the steepest slope of log2(root mean square) over log2(width or depth) that still is called flat


@dataclasses.dataclass(frozen=True)
class Curve:
    """How large one kind of activation is: `rms[i][t]` at sizes[i] after t steps, the mean over seeds and layers."""

    kind: str
    parametrization: Parametrization
    by: Size
    sizes: tuple[int, ...]
    rms: tuple[tuple[float, ...], ...]

    @property
    def slope(self) -> float:
        """Of log2(rms) over log2(size) after the last step, by least squares; 0 is flat, 1 grows as the size does."""
        x, y = np.log2(self.sizes), np.log2([max(row[-1], 1e-30) for row in self.rms])
        return float(np.polyfit(x, y, 1)[0])


def resized(model: Any, by: Size, size: int) -> Any:
    """The model with another width, or with another number of blocks in each stack.

    Raises ValueError for a model without a width, and for a depth that is no multiple of a stack's pattern.
    """
    if by == "width":
        return widen(model, size)
    stacks: dict[str, Stack] = {}
    for field in fields(model):
        stack = getattr(model, field.name)
        if isinstance(stack, Stack):
            repeats, rest = divmod(size - len(stack.prefix), len(stack.pattern))
            if rest or repeats < 1:
                raise ValueError(
                    f"A depth of {size} is no whole number of repeats of {field.name}'s {len(stack.pattern)} blocks."
                )
            stacks[field.name] = dataclasses.replace(stack, repeats=repeats)
    return dataclasses.replace(model, **stacks)


Plan = dict[Parametrization, dict[int, Prepared]]


def planned(experiment: Experiment, by: Size, sizes: Sequence[int], steps: int) -> Plan:
    """The experiment at each size in each parametrization, at the peak rate; the smallest size is muP's base.

    Raises InputError where a size does not fit the structure, before anything is compiled.
    """
    if not hasattr(experiment.model, "parametrization"):
        name = type(experiment.model).__name__
        raise InputError(f"{name} has no field parametrization; the check is for Transformer and EncoderDecoder.")
    optimizer: Any = experiment.optimizer
    if hasattr(getattr(optimizer, "rate", None), "peak"):
        optimizer = dataclasses.replace(optimizer, rate=Constant(optimizer.rate.peak))
    data = experiment.data.open()
    experiment, _ = settle(experiment, data)
    planned: dict[Parametrization, dict[int, Experiment]] = {name: {} for name in PARAMETRIZATIONS}
    with convert_errors():
        smallest = resized(experiment.model, by, min(sizes))
        depths = [
            stack.depth for field in fields(smallest) if isinstance(stack := getattr(smallest, field.name), Stack)
        ]
        base = {"base_width": width_of(smallest), "base_depth": max(depths)}
        for name in PARAMETRIZATIONS:
            for size in sizes:
                model = dataclasses.replace(resized(experiment.model, by, size), parametrization=name, **base)
                short = dataclasses.replace(experiment, optimizer=optimizer, steps=steps, epochs=None)
                planned[name][size] = dataclasses.replace(short, model=model)
    return {name: {size: prepare(one, data) for size, one in sizes.items()} for name, sizes in planned.items()}


def check(plan: Plan, by: Size, seeds: int = 1, say: Callable[[str], None] = lambda _: None) -> list[Curve]:
    """Trains what is planned, and measures activations on the first batch before and after each step."""
    curves: list[Curve] = []
    for parametrization, prepared in plan.items():
        found: dict[str, list[np.ndarray]] = {}
        for size, ready in prepared.items():
            runs = [_trained(ready, seed) for seed in range(seeds)]
            for kind in runs[0]:
                found.setdefault(kind, []).append(np.mean([run[kind] for run in runs], axis=0))
            say(
                f"{parametrization:<9}{by} {size}: "
                + ", ".join(f"{kind} {rows[-1][-1]:.3g}" for kind, rows in found.items())
            )
        for kind, rows in found.items():
            table = tuple(tuple(map(float, row)) for row in rows)
            curves.append(Curve(kind, parametrization, by, tuple(prepared), table))
    return curves


def _trained(prepared: Prepared, seed: int) -> dict[str, list[float]]:
    """The size of each kind of activation before and after each step, from another seed."""
    if seed:
        experiment = dataclasses.replace(prepared.experiment, seed=prepared.experiment.seed + seed)
        prepared = prepare(experiment, prepared.data)
    state, model, parallel = prepared.begin().state, prepared.experiment.model, prepared.parallel
    measure = jax.jit(lambda params, batch: sizes_of(model, params, batch))
    batch = {name: jnp.asarray(value) for name, value in prepared.batches[0].items()}
    measured = [measure(parallel.whole(state.params), batch)]
    for given in prepared.batches.stream(0, prepared.steps):
        state, _ = prepared.step(state, parallel.put(given))
        measured.append(measure(parallel.whole(state.params), batch))
    rows = jax.device_get(measured)
    return {kind: [float(row[kind]) for row in rows] for kind in KINDS if kind in rows[0]}


def sizes_of(model: Any, params: Any, batch: Any) -> dict[str, jax.Array]:
    """The root mean square of what embed, branches, blocks and head give, of branches and blocks the mean over layers,
    and of scores.

    Scores are those of attention that are not hidden, and what a class of one's own sows as `scores` among its
    intermediates.
    """

    def kept(module: nn.Module, method: str) -> bool:
        outermost = module.name in KINDS and "head" not in module.path[:-1]
        return method == "__call__" and (outermost or isinstance(module, Block))

    def scored(run: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name == "__call__" and kind_of(context.module) is Weigh:
            scores = args[0].astype(jnp.float32)
            seen = scores > HIDDEN / 2
            context.module.sow(
                "intermediates",
                "scores",
                jnp.sqrt(jnp.square(jnp.where(seen, scores, 0)).sum() / jnp.maximum(seen.sum(), 1)),
            )
        return run(*args, **kwargs)

    with nn.intercept_methods(scored):
        _, sown = model.apply({"params": params}, batch, capture_intermediates=kept, mutable=["intermediates"])
    found: dict[str, list[jax.Array]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(_first(sown["intermediates"])):
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey) and key.key != "__call__"]
        kind = names[-1] if names[-1] in KINDS else "stream"
        axes = tuple(range(1, leaf.ndim)) if (layer := Layer.of("/".join(names))) and layer.repeats else None
        found.setdefault(kind, []).append(jnp.sqrt(jnp.mean(jnp.square(leaf.astype(jnp.float32)), axis=axes)).mean())
    return {kind: jnp.stack(sizes).mean() for kind, sizes in found.items()}


def _first(tree: Any) -> Any:
    """Of each layer that gives more than its output, the output; and none of the other."""
    if isinstance(tree, dict):
        return {name: _first(value) for name, value in tree.items()}
    value = tree[0]  # linen keeps what each call gave
    return value[0] if isinstance(value, tuple) else value


def draw(curves: Sequence[Curve], place: Path) -> None:
    """A figure: a row for each parametrization, a column for each kind of activation, a line for each step."""
    import matplotlib.cm
    import matplotlib.colors

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    kinds = list(dict.fromkeys(curve.kind for curve in curves))
    shape: dict[str, Any] = {"figsize": (2.6 * len(kinds), 5), "sharex": True, "sharey": "col", "squeeze": False}
    figure, panels = plt.subplots(2, len(kinds), layout="constrained", **shape)
    steps = len(curves[0].rms[0]) - 1
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, steps + 1))
    for curve in curves:
        panel = panels[PARAMETRIZATIONS.index(curve.parametrization), kinds.index(curve.kind)]
        for t in range(steps + 1):
            panel.plot(curve.sizes, [row[t] for row in curve.rms], color=colours[t], marker=".", linewidth=1.2)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_title(f"{curve.kind}: slope {curve.slope:+.2f}", fontsize=10)
        panel.grid(alpha=0.3)
    for row, name in enumerate(("standard", "muP")):
        panels[row, 0].set_ylabel(f"{name}: root mean square")
    for panel in panels[1]:
        panel.set_xlabel(curves[0].by)
        panel.set_xticks(curves[0].sizes, [str(size) for size in curves[0].sizes], fontsize=8)
        panel.minorticks_off()
    bar = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, steps), plt.get_cmap("viridis"))
    figure.colorbar(bar, ax=panels, label="step", aspect=40, pad=0.01)
    figure.savefig(place, dpi=130)
    plt.close(figure)


def table(curves: Sequence[Curve]) -> rich.table.Table:
    """The curves' slopes after the last step, side by side."""
    shown = rich.table.Table(
        "activation",
        *(f"{name}: smallest, largest, slope" for name in ("standard", "muP")),
        title="after the last step",
    )
    for kind in dict.fromkeys(curve.kind for curve in curves):
        cells = [
            f"{curve.rms[0][-1]:.3g}, {curve.rms[-1][-1]:.3g}, {curve.slope:+.2f}{'' if flat(curve) else ' not flat'}"
            for name in PARAMETRIZATIONS
            for curve in curves
            if (curve.kind, curve.parametrization) == (kind, name)
        ]
        shown.add_row(kind, *cells)
    return shown


def write(curves: Sequence[Curve], folder: Path) -> dict[str, Any]:
    """Writes coordinates.png and coordinates.json into a folder that is there; gives what the latter holds."""
    draw(curves, folder / "coordinates.png")
    whole = {"curves": [dataclasses.asdict(curve) | {"slope": curve.slope} for curve in curves]}
    (folder / "coordinates.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return whole


def flat(curve: Curve) -> bool:
    """Whether the size stays over widths or depths.

    What chance gives shrinks as 1 / sqrt(width) in a head and in scores, and as 1 / sqrt(depth) in the stream, until
    learning outweighs it.
    """
    chance = curve.kind in (("head", "scores") if curve.by == "width" else ("stream",))
    return (-0.5 if chance else 0) - FLAT <= curve.slope <= FLAT
