"""A batch in parts, on the devices of a pmap and on a mesh gives the numbers of the whole batch, for every component
and objective.
"""

import dataclasses
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import MLP, Attention, Block, Dropout, Experts, RMSNorm, Stack, Transformer
from models.contracts import Batch, Embed, Head, Layer, Pool, Residual
from models.experts.routing import AuxiliaryLossFree, count_choices, gate, mask_padding, report
from models.head.logits import LogitsHead, MultiTokenHead
from models.head.pool import EveryToken
from models.head.values import ValueHead
from models.paths import path_name
from models.residual.single import StochasticDepth
from models.roles import roles_of
from models.structure import fields
from tests.laws.components import EMBED, WIDTH, forms_of, module_classes, random_like
from tests.laws.trained import (
    ALONE,
    BESIDE,
    SHARED,
    Trained,
    everything,
    layered,
    resized,
    socket_of,
    trained,
    trained_with,
    training_batch,
)
from train.contracts import Parallel
from train.engine.step import combine_batches, initialise, make_evaluation, make_step
from train.objectives import (
    MaskedLM,
    MeanSquaredError,
    NextToken,
    NextTokens,
    Quantiles,
    Translation,
    classification,
    detection,
    language,
    regression,
)
from train.optimizers import SGD, Constant
from train.parallel import Jit, Mesh, Pmap
from train.sums import Sum, Sums, compute_interval

ROWS, LENGTH = 16, 8
WAYS: dict[str, tuple[Parallel, int]] = {"parts": (Jit(), 4), "pmap": (Pmap(), 2), "mesh": (Mesh(data=4, fsdp=2), 2)}
TOGETHER = 4  # forms that share one model


def ragged(trained: Trained) -> dict[str, np.ndarray]:
    """Rows of one example, of two, of none, padded to different lengths, and examples of different weights."""
    draw, batch = np.random.default_rng(1), dict[str, Any](training_batch(trained, ROWS, LENGTH))
    cuts = np.sort(draw.integers(0, LENGTH + 1, (ROWS, 2)), axis=1)
    cuts[3] = 0
    places = np.arange(LENGTH)
    segments = np.where(places < cuts[:, :1], 1, np.where(places < cuts[:, 1:], 1 + (cuts[:, :1] > 0), 0))
    starts = np.where(segments == 2, cuts[:, :1], 0)
    weights = draw.integers(0, 3, ROWS).astype(np.float32)
    batch |= {"segments": segments, "source_segments": segments, "positions": places - starts, "weights": weights}
    if isinstance(trained.objective, MeanSquaredError) and isinstance(trained.model.head.pool, EveryToken):
        batch |= {"weights": weights[:, None]}
    if isinstance(trained.objective, MaskedLM):
        batch |= {
            "labels": draw.integers(0, 5, (ROWS, LENGTH)),
            "weights": draw.integers(0, 2, (ROWS, LENGTH)) * (segments > 0),
        }
    if isinstance(trained.objective, Quantiles):
        batch |= {"values": draw.normal(size=(ROWS, LENGTH, 1)), "scale": draw.uniform(1, 2, (ROWS, 1, 1))}
    return {
        name: np.asarray(value, np.float32 if np.asarray(value).dtype.kind == "f" else np.int32)
        for name, value in batch.items()
    }


def still(value: Any) -> Any:
    """A structure without dropout."""
    if isinstance(value, tuple):
        return tuple(map(still, value))
    if not isinstance(value, nn.Module):
        return value
    own = {one.name: 0.0 if "dropout" in one.name else still(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Dropout | StochasticDepth):
        own["rate"] = 0.0
    return dataclasses.replace(value, **own)


class Stepped:
    """What a step of plain descent from random parameters changes, and its sums."""

    def __init__(self, trained: Trained) -> None:
        self.model, self.objective, self.batch = (
            still(resized(trained.model, WIDTH, LENGTH)),
            trained.objective,
            ragged(trained),
        )
        given = jax.tree.map(jnp.asarray, self.batch)
        self.params = random_like(jax.eval_shape(lambda: self.model.init(jax.random.key(0), given))["params"])
        self.roles = roles_of(self.model, given)
        self.moved, self.sums = self.step(Jit(), 1)

    def step(self, parallel: Parallel, parts: int) -> tuple[Any, Any]:
        """(the changes of the parameters, the sums) of one step."""
        optimizer = SGD(Constant(1.0)).build(1, self.params, roles=self.roles)
        step = parallel.compile_step(
            make_step(self.model, self.objective, optimizer, accumulate=parts, roles=self.roles)
        )
        state, sums = step(parallel.start(lambda: initialise(self.params, optimizer, 0)), parallel.put(self.batch))
        return jax.device_get(
            (jax.tree.map(lambda new, old: new - old, parallel.whole(state).params, self.params), sums)
        )


def law_parts_give_the_numbers_of_the_whole(whole: Stepped, way: str) -> None:
    """Every way to compute a step of plain descent gives the same parameters and the same sums.

    Up to 0.1 % of a parameter's largest change: four random recurrences make 0.03 % of a sum's rounding.
    """
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(whole.moved)) > 1e-4
    moved, sums = whole.step(*WAYS[way])
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(moved), jax.tree.leaves(whole.moved), strict=True):
        np.testing.assert_allclose(
            a, b, rtol=2e-3, atol=1e-3 * max(np.abs(b).max(), 1e-2), err_msg=f"{way} {path_name(path)}"
        )
    for name, (value, weight, _) in whole.sums.items():
        np.testing.assert_allclose(sums[name].value, value, rtol=5e-4, atol=1e-5, err_msg=f"{way} {name}")
        np.testing.assert_allclose(sums[name].weight, weight, rtol=1e-5, err_msg=f"{way} {name}")


def of(objective: Any, head: Any, *blocks: Block) -> Trained:
    """A decoder with a head, trained for an objective."""
    stack = Stack(blocks or Block(Attention(4, causal=True), None), 1, RMSNorm())
    return Trained(type(objective).__name__, Transformer(EMBED, stack, head), objective)


def experts(router: Any, active: int = 2) -> Block:
    """Four experts in the place of a mixer."""
    return Block(Experts(4, active, 1.0, router=router, dispatch="ragged"), None)


BALANCED = of(
    NextTokens(), MultiTokenHead(2), Block(Experts(4, 2, 1.0, dispatch="ragged"), None), experts(AuxiliaryLossFree(), 1)
)
OBJECTIVES = [
    of(MaskedLM(), LogitsHead()),
    of(Translation(), LogitsHead(chunk=5)),
    of(NextTokens(), MultiTokenHead(2, chunk=5)),
    of(Quantiles(), ValueHead(3, EveryToken())),
]


@pytest.fixture(scope="module")
def balanced() -> Stepped:
    """Experts that are balanced in both ways, and two tokens predicted at once."""
    return Stepped(BALANCED)


@pytest.mark.slow
@pytest.mark.represented_by("pmap")
@pytest.mark.parametrize("way", ["parts", "pmap", pytest.param("mesh", marks=pytest.mark.slow)])
def test_parts_and_devices_give_the_numbers_of_the_whole(balanced: Stepped, way: str) -> None:
    assert balanced.sums["auxiliary_loss"].value > 1e-3 * balanced.sums["loss"].value
    law_parts_give_the_numbers_of_the_whole(balanced, way)


def test_an_evaluation_in_batches_gives_the_numbers_of_the_whole(balanced: Stepped) -> None:
    evaluation = jax.jit(make_evaluation(balanced.model, balanced.objective))

    def measured(batches: int) -> dict[str, float]:
        rows = np.split(np.arange(ROWS), batches)
        parts = [{name: value[own] for name, value in balanced.batch.items()} for own in rows]
        found = combine_batches([jax.device_get(evaluation(balanced.params, part)) for part in parts])
        return {name: compute_interval(moments)[0] for name, moments in found.items()}

    whole, parts = measured(1), measured(4)
    assert {"loss", "accuracy", "load_entropy", "largest_load"} <= set(whole)
    assert parts == pytest.approx(whole, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("trained", [pytest.param(one, id=one.name) for one in OBJECTIVES])
def test_every_objective_gives_parts_the_numbers_of_the_whole(trained: Trained) -> None:
    law_parts_give_the_numbers_of_the_whole(Stepped(trained), "parts")


def test_every_objective_is_trained_for_here() -> None:
    modules = (classification, detection, language, regression)
    found = {
        one
        for module in modules
        for one in vars(module).values()
        if isinstance(one, type) and one.__module__ == module.__name__
    }
    objectives = {one for one in found if hasattr(one, "answer")}
    assert objectives == {type(one.objective) for one in [*OBJECTIVES, *everything()]}


def side_by_side(forms: dict[str, Any], build: Any) -> list[Trained]:
    """A few forms at a time as the layers of one model."""
    names = list(forms)
    groups = [names[first : first + TOGETHER] for first in range(0, len(names), TOGETHER)]
    return [trained("+".join(group), build(*(forms[name] for name in group))) for group in groups]


def once(found: Trained) -> Trained:
    """A stack's equal layers as one."""
    stack = getattr(found.model, "stack", None)
    if not isinstance(stack, Stack) or stack.repeats > 1:
        return found
    blocks = tuple(dict.fromkeys(stack.pattern))
    return found._replace(model=dataclasses.replace(found.model, stack=dataclasses.replace(stack, block=blocks)))


def every_form(last: bool) -> list[Any]:
    """Models around the last form of each component, or around all its others.

    Layers and their parts stand side by side; each residual is that of a model around an embed, a head or a pool.
    """
    layers: dict[Any, dict[str, Any]] = {}
    residuals: dict[str, Any] = {}
    around: dict[str, Any] = {}
    found: list[Trained] = []
    for owner in module_classes():
        socket = socket_of(owner)
        forms = list(forms_of(owner).items()) if socket is not None else []
        for name, form in forms[-1:] if last else forms[:-1]:
            title = f"{owner.__name__}-{name}"
            if owner in BESIDE:
                found += [trained(title, layered(*BESIDE[owner]))] if last else []
            elif socket in SHARED or (socket is Layer and owner is not Stack):
                layers.setdefault(socket, {})[title] = form
            elif socket is Residual:
                residuals[title] = form
            elif socket in (Embed, Head, Pool):
                around[title] = ALONE[socket](form)
            else:
                found.append(trained(title, ALONE[socket](form)))
    for socket, forms in layers.items():
        found += side_by_side(forms, layered if socket is Layer else SHARED[socket])
    for outer, inner in itertools.zip_longest(around, residuals):
        model = ALONE[Residual](residuals[inner]) if inner else around[outer]
        found.append(
            trained(
                "+".join(filter(None, (outer, inner))), dataclasses.replace(around.get(outer, model), stack=model.stack)
            )
        )
    return [pytest.param(once(one), id=one.name) for one in found]


@pytest.mark.slow
@pytest.mark.parametrize("trained", [*every_form(last=True), *every_form(last=False)])
def test_every_form_gives_parts_the_numbers_of_the_whole(trained: Trained) -> None:
    law_parts_give_the_numbers_of_the_whole(Stepped(trained), "parts")


def one_of_each_kind() -> list[Any]:
    """A model around the first component of every kind."""
    found: dict[Any, Trained] = {}
    for owner in module_classes():
        socket = socket_of(owner)
        if socket is not None and socket not in found:
            found[socket] = once(trained_with(owner)[0])
    return [pytest.param(one, id=socket.__name__) for socket, one in found.items()]


@pytest.mark.slow
@pytest.mark.parametrize("trained", one_of_each_kind())
def test_every_kind_gives_devices_the_numbers_of_the_whole(trained: Trained) -> None:
    whole = Stepped(trained)
    for way in ("pmap", "mesh"):  # in two parts each
        law_parts_give_the_numbers_of_the_whole(whole, way)


@dataclasses.dataclass(frozen=True)
class MeanOfMeans(NextToken):
    """Broken: the loss of a part divided by the weight of that part."""

    def __call__(self, outputs: Any, batch: Batch) -> Sums:
        sums = super().__call__(outputs, batch)
        loss = sums["loss"]
        return sums | {"loss": Sum(loss.value / jnp.maximum(loss.weight, 1), jnp.ones(()))}


class BatchBalance(nn.Module):
    """Broken: experts are balanced over the batch at hand, e sum_e f_e mean(p_e), which is no sum over examples.
    arXiv:2101.03961.
    """

    @nn.compact
    def __call__(
        self, tokens: jax.Array, segments: jax.Array | None, experts: int, active: int
    ) -> tuple[jax.Array, jax.Array]:
        chances, present = jax.nn.softmax(gate(tokens, experts)), mask_padding(tokens, segments)
        weights, chosen = jax.lax.top_k(chances, active)
        share, mean = count_choices(chosen, present, experts), jnp.where(present[..., None], chances, 0).sum((0, 1))
        report(self, "losses", "balance", experts * jnp.dot(share / share.sum(), mean / present.sum()))
        return weights, chosen


BROKEN = {
    "loss": of(MeanOfMeans(), LogitsHead(), Block(MLP(1.0), None)),
    "layer": of(NextToken(), LogitsHead(), experts(BatchBalance())),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_no_sum_over_examples_fails(broken: str) -> None:
    whole = Stepped(BROKEN[broken])
    with pytest.raises(AssertionError):
        law_parts_give_the_numbers_of_the_whole(whole, "parts")
