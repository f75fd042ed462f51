"""The coordinate check: the size of activations over widths or depths, in the standard parametrization and in muP.

If it stays, rates and scales that were tuned on the smallest model serve the largest.  arXiv:2203.03466, appendix D.1.
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
from models.contracts import Batch, Model, Tree, Weigh, kind_of
from models.depth.block import Block
from models.depth.stack import Stack
from models.parametrization import Parametrization, Parametrized, widen, width_of
from models.paths import Layer
from models.structure import fields
from train.contracts import Params, Scheduled
from train.engine.prepared import Prepared, prepare
from train.engine.requirements import settle
from train.errors import InputError, convert_errors
from train.experiment import Experiment
from train.optimizers import Constant
from train.optimizers.schedules import Peaked

PARAMETRIZATIONS: tuple[Parametrization, ...] = ("standard", "mup")
Size = Literal["width", "depth"]
BRANCHES = ("mixer", "cross", "feedforward")
KINDS = ("embed", *BRANCHES, "scores", "stream", "head")
FLAT = 0.2  # the steepest slope of log2(root mean square) over log2(width or depth) that counts as flat


@dataclasses.dataclass(frozen=True)
class Curve:
    """The size of one kind of activation: `rms[i][t]` at sizes[i] after t steps, the mean over seeds and layers."""

    kind: str
    parametrization: Parametrization
    by: Size
    sizes: tuple[int, ...]
    rms: tuple[tuple[float, ...], ...]

    @property
    def slope(self) -> float:
        """The slope of log2(rms) over log2(size) after the last step, by least squares: 0 is flat, 1 proportional."""
        x, y = np.log2(self.sizes), np.log2([max(row[-1], 1e-30) for row in self.rms])
        return float(np.polyfit(x, y, 1)[0])


def resize(model: Any, by: Size, size: int) -> Any:
    """Resizes a model to another width, or to another number of blocks in each stack.

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


def plan_sizes(experiment: Experiment, by: Size, sizes: Sequence[int], steps: int) -> Plan:
    """Plans the experiment at each size in each parametrization, at the peak rate; the smallest size is muP's base.

    Raises InputError if a size does not fit the structure, before anything is compiled.
    """
    if not isinstance(experiment.model, Parametrized):
        name = type(experiment.model).__name__
        raise InputError(f"{name} has no field parametrization; the check is for Transformer and EncoderDecoder.")
    optimizer = experiment.optimizer
    if isinstance(optimizer, Scheduled) and isinstance(optimizer.rate, Peaked) and dataclasses.is_dataclass(optimizer):
        optimizer = dataclasses.replace(optimizer, rate=Constant(optimizer.rate.peak))
    data = experiment.data.open()
    experiment, _ = settle(experiment, data)
    experiments: dict[Parametrization, dict[int, Experiment]] = {name: {} for name in PARAMETRIZATIONS}
    with convert_errors():
        smallest = resize(experiment.model, by, min(sizes))
        depths = [
            stack.depth for field in fields(smallest) if isinstance(stack := getattr(smallest, field.name), Stack)
        ]
        base = {"base_width": width_of(smallest), "base_depth": max(depths)}
        for name in PARAMETRIZATIONS:
            for size in sizes:
                model = dataclasses.replace(resize(experiment.model, by, size), parametrization=name, **base)
                short = dataclasses.replace(experiment, optimizer=optimizer, steps=steps, epochs=None)
                experiments[name][size] = dataclasses.replace(short, model=model)
    return {
        name: {size: prepare(resized, data) for size, resized in by_size.items()}
        for name, by_size in experiments.items()
    }


def check(plan: Plan, by: Size, seeds: int = 1, say: Callable[[str], None] = lambda _: None) -> list[Curve]:
    """Trains the planned experiments, and measures activations on the first batch before and after each step."""
    curves: list[Curve] = []
    for parametrization, prepared in plan.items():
        sizes: dict[str, list[np.ndarray]] = {}
        for size, ready in prepared.items():
            runs = [_measure_training(ready, seed) for seed in range(seeds)]
            for kind in runs[0]:
                sizes.setdefault(kind, []).append(np.mean([run[kind] for run in runs], axis=0))
            say(
                f"{parametrization:<9}{by} {size}: "
                + ", ".join(f"{kind} {rows[-1][-1]:.3g}" for kind, rows in sizes.items())
            )
        for kind, rows in sizes.items():
            table = tuple(tuple(map(float, row)) for row in rows)
            curves.append(Curve(kind, parametrization, by, tuple(prepared), table))
    return curves


def _measure_training(prepared: Prepared, seed: int) -> dict[str, list[float]]:
    """Trains with another seed, and measures each kind of activation before and after each step."""
    if seed:
        experiment = dataclasses.replace(prepared.experiment, seed=prepared.experiment.seed + seed)
        prepared = prepare(experiment, prepared.data)
    state, model, parallel = prepared.begin().state, prepared.experiment.model, prepared.parallel
    measure = jax.jit(lambda params, batch: measure_activations(model, params, batch))
    batch = {name: jnp.asarray(value) for name, value in prepared.batches[0].items()}
    measured = [measure(parallel.whole(state.params), batch)]
    for arrays in prepared.batches.stream(0, prepared.steps):
        state, _ = prepared.step(state, parallel.put(arrays))
        measured.append(measure(parallel.whole(state.params), batch))
    rows = jax.device_get(measured)
    return {kind: [float(row[kind]) for row in rows] for kind in KINDS if kind in rows[0]}


def measure_activations(model: Model, params: Params, batch: Batch) -> dict[str, jax.Array]:
    """Measures the root mean square of the outputs of embed, branches, blocks and head, and of attention scores.

    Those of branches and blocks are means over layers.  Scores are those of attention that are not masked, and what a
    user's class sows as `scores` among its intermediates.
    """

    def captures(module: nn.Module, method: str) -> bool:
        outermost = module.name in KINDS and "head" not in module.path[:-1]
        return method == "__call__" and (outermost or isinstance(module, Block))

    def sow_scores(run: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name == "__call__" and kind_of(context.module) is Weigh:
            scores = args[0].astype(jnp.float32)
            seen = scores > HIDDEN / 2
            context.module.sow(
                "intermediates",
                "scores",
                jnp.sqrt(jnp.square(jnp.where(seen, scores, 0)).sum() / jnp.maximum(seen.sum(), 1)),
            )
        return run(*args, **kwargs)

    with nn.intercept_methods(sow_scores):
        _, sown = model.apply({"params": params}, batch, capture_intermediates=captures, mutable=["intermediates"])
    sizes: dict[str, list[jax.Array]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(_take_first(sown["intermediates"])):
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey) and key.key != "__call__"]
        kind = names[-1] if names[-1] in KINDS else "stream"
        axes = tuple(range(1, leaf.ndim)) if (layer := Layer.of("/".join(names))) and layer.repeats else None
        sizes.setdefault(kind, []).append(jnp.sqrt(jnp.mean(jnp.square(leaf.astype(jnp.float32)), axis=axes)).mean())
    return {kind: jnp.stack(values).mean() for kind, values in sizes.items()}


def _take_first(tree: Tree) -> Tree:
    """Takes the output of each layer, without the other values that some layers return beside it."""
    if isinstance(tree, dict):
        return {name: _take_first(value) for name, value in tree.items()}
    value = tree[0]  # linen keeps a tuple with the value of each call
    return value[0] if isinstance(value, tuple) else value


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Draws a row for each parametrization, a column for each kind of activation, a line for each step."""
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
    figure.savefig(path, dpi=130)
    plt.close(figure)


def make_table(curves: Sequence[Curve]) -> rich.table.Table:
    """Makes a table of the curves' slopes after the last step, side by side."""
    shown = rich.table.Table(
        "activation",
        *(f"{name}: smallest, largest, slope" for name in ("standard", "muP")),
        title="after the last step",
    )
    for kind in dict.fromkeys(curve.kind for curve in curves):
        cells = [
            f"{curve.rms[0][-1]:.3g}, {curve.rms[-1][-1]:.3g}, {curve.slope:+.2f}" + " not flat" * (not is_flat(curve))
            for name in PARAMETRIZATIONS
            for curve in curves
            if (curve.kind, curve.parametrization) == (kind, name)
        ]
        shown.add_row(kind, *cells)
    return shown


def write(curves: Sequence[Curve], folder: Path) -> dict[str, Any]:
    """Writes coordinates.png and coordinates.json into a folder that exists; returns the values of the latter."""
    draw(curves, folder / "coordinates.png")
    whole = {"curves": [dataclasses.asdict(curve) | {"slope": curve.slope} for curve in curves]}
    (folder / "coordinates.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return whole


def is_flat(curve: Curve) -> bool:
    """Tells if the size stays over widths or depths.

    Values at initialisation shrink as 1 / sqrt(width) in a head and in scores, and as 1 / sqrt(depth) in the stream,
    until learning outweighs them.
    """
    chance = curve.kind in (("head", "scores") if curve.by == "width" else ("stream",))
    return (-0.5 if chance else 0) - FLAT <= curve.slope <= FLAT
