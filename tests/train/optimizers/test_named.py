"""Optimizers of optax with a class of their own are optax's, loop over scanned layers, and go through a run."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from models import MLP, Attention, Block, LogitsHead, PreNorm, RMSNorm, RoPE, Stack, TokenEmbed, Transformer
from models.parametrization import roles
from models.paths import path_name
from models.roles import Role
from tests.train.engine.runs import LANGUAGE_MODEL, restored, same_bits, train
from tests.train.engine.runs import abstract as abstract_state
from tests.train.optimizers.updates import draw, flatten, nest, trained
from train.contracts import Parallel
from train.engine.step import initialise, make_loss, make_step
from train.objectives import NextToken
from train.optimizers import SOAP, Adafactor, Constant, Linear, Lion, Muon, ScheduleFreeAdamW
from train.optimizers.averaged import Interpolates
from train.optimizers.transforms import compute_layer_scales
from train.parallel import Jit, Mesh, Pmap

RATE, STEPS = Linear(0.05, warmup=2), 10
SIZES = {"mixer/up/kernel": (6, 8), "mixer/down/kernel": (8, 6), "mixer_residual/norm/scale": (6,)}


def looped(seed: int, repeats: int = 3) -> Any:
    """A table and the parameters of a stack, of other sizes in each block."""
    flat = {"embed/token": 0.3 * draw(seed, 11, 6)}
    for layer in range(repeats):
        for index, (name, shape) in enumerate(SIZES.items()):
            flat[f"stack/layer_{layer}/{name}"] = (layer + 1) * draw(seed + 10 * layer + index + 1, *shape)
    return nest(flat)


def scanned(tree: Any) -> Any:
    flat = flatten(tree)
    stacked = {
        f"stack/blocks/block_0/{name}": jnp.stack([flat[f"stack/layer_{layer}/{name}"] for layer in range(3)])
        for name in SIZES
    }
    return nest({"embed/token": tree["embed"]["token"]} | stacked)


def placing(optimizer: object) -> Any:
    """The parameters that an optimizer's gradients are taken at, as a function, or None."""
    return optimizer.interpolate if isinstance(optimizer, Interpolates) else None


def close(left: Any, right: Any, tolerance: float = 1e-5) -> None:
    left, right = flatten(left), flatten(right)
    assert left.keys() == right.keys()
    for path, value in left.items():
        np.testing.assert_allclose(value, right[path], rtol=tolerance, atol=tolerance, err_msg=path)


def matrices(params: Any) -> Any:
    def of(path: Any, leaf: jax.Array) -> Any:
        return optax.contrib.MuonDimensionNumbers() if path_name(path).endswith("kernel") else None

    return jax.tree_util.tree_map_with_path(of, params)


def decayed(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim == 2, params)


OWN: dict[str, tuple[Any, Callable[[Any], optax.GradientTransformation]]] = {
    "lion": (
        Lion(RATE, decay=0.2, clip=None),
        lambda params: optax.lion(RATE.build(STEPS), weight_decay=0.2, mask=decayed(params)),
    ),
    "adafactor": (
        Adafactor(RATE, factored=6),
        lambda params: optax.adafactor(RATE.build(STEPS), min_dim_size_to_factor=6),
    ),
    "muon": (
        Muon(RATE, decay=0.2, no_decay=("embed", "scale"), clip=None),
        lambda params: optax.contrib.muon(
            RATE.build(STEPS),
            weight_decay=0.2,
            adam_b2=0.95,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=matrices(params),
        ),
    ),
    "muon_by_width": (
        Muon(RATE, rms=None, nesterov=False, decay=0.0, clip=None, adam=("down",)),
        lambda params: optax.contrib.muon(
            RATE.build(STEPS),
            nesterov=False,
            adam_b2=0.95,
            muon_weight_dimension_numbers=jax.tree_util.tree_map_with_path(
                lambda path, own: None if "down" in path_name(path) else own,
                matrices(params),
                is_leaf=lambda leaf: leaf is None or isinstance(leaf, optax.contrib.MuonDimensionNumbers),
            ),
        ),
    ),
}


@pytest.mark.represented_by("lion")
@pytest.mark.parametrize("name", OWN)
def test_an_update_is_optaxs(name: str) -> None:
    ours, theirs = OWN[name]
    params = looped(0, 1)
    found, expected = (trained(each, params)[0] for each in (ours.build(STEPS, params), theirs(params)))
    if name == "muon":  # whose other parameters optax moves by Nesterov's Adam, as it moves the matrices
        found, expected = found["stack"], expected["stack"]
        found, expected = (jax.tree.map(lambda leaf: leaf * (leaf.ndim == 2), tree) for tree in (found, expected))
    close(found, expected)


def test_schedule_free_updates_the_average_that_optax_evaluates() -> None:
    ours, params = ScheduleFreeAdamW(Constant(0.05, warmup=2), decay=0.2, no_decay=(), clip=None), looped(0, 1)
    make: Any = optax.contrib.schedule_free_adamw  # which takes a schedule too
    theirs = make(ours.rate.build(STEPS), weight_decay=0.2)
    y, its = trained(theirs, params)
    x, state = trained(ours.build(STEPS, params), params, 4, ours.interpolate)
    close(x, optax.contrib.schedule_free_eval_params(its, y), 1e-4)
    close(ours.interpolate(x, state), y, 1e-4)
    assert not np.allclose(x["embed"]["token"], y["embed"]["token"], atol=1e-3)


CONVENTIONS: list[Any] = [
    Lion(RATE, layer_decay=0.7, clip=0.5, freeze=("up/", "token")),
    Adafactor(RATE, factored=6, decay=0.1, layer_decay=0.7, clip=0.5, freeze=("up/", "token")),
    Muon(RATE, adam_rate=0.5, layer_decay=0.7, clip=0.5, freeze=("up/", "token")),
    ScheduleFreeAdamW(RATE, layer_decay=0.7, clip=0.5, freeze=("up/", "token")),
    SOAP(RATE, every=2, largest=6, layer_decay=0.7, clip=0.5, freeze=("up/", "token")),
]


def name_of(optimizer: Any) -> str:
    return type(optimizer).__name__


@pytest.mark.represented_by("Adafactor")
@pytest.mark.parametrize("optimizer", CONVENTIONS, ids=name_of)
def test_a_scanned_stack_is_updated_as_the_looped_one(optimizer: Any) -> None:
    at = placing(optimizer)
    one, other = looped(0), scanned(looped(0))
    found = trained(optimizer.build(STEPS, other), other, 2, at)[0]
    close(found, scanned(trained(optimizer.build(STEPS, one), one, 2, at)[0]))
    moved = {path for path, leaf in flatten(found).items() if not np.array_equal(leaf, flatten(other)[path])}
    assert moved == {"stack/blocks/block_0/mixer/down/kernel", "stack/blocks/block_0/mixer_residual/norm/scale"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Lion, Adafactor, Muon, ScheduleFreeAdamW, SOAP])
def test_decay_and_rates_by_layer_are_those_of_adamw(kind: Any) -> None:
    params = looped(0)
    still = jax.tree.map(jnp.zeros_like, params)

    def updates(**settings: Any) -> dict[str, np.ndarray]:
        transform = kind(Constant(0.5), decay=0.1, clip=None, **settings).build(STEPS, params)
        return flatten(transform.update(still, transform.init(params), params)[0])

    scales = flatten(compute_layer_scales(params, 0.5))
    for path, update in updates(layer_decay=0.5).items():
        expected = 0 if path.endswith("scale") else -0.05 * scales[path] * flatten(params)[path]
        np.testing.assert_allclose(update, expected, rtol=1e-4, atol=1e-6, err_msg=path)
    named = updates(no_decay=("embed",))
    np.testing.assert_allclose(named["embed/token"], 0, atol=1e-7)
    assert np.abs(named["stack/layer_0/mixer_residual/norm/scale"]).max() > 1e-3


def test_what_muon_leaves_to_adamw() -> None:
    """Its state names the matrices: neither tables, vectors, kernels of a convolution, nor what is not decayed."""
    params = looped(0)
    params["stack"]["layer_0"]["mixer"] |= {"convolution": {"kernel": draw(1, 4, 6)}, "rates": draw(2, 3, 6)}
    known = jax.tree.map(lambda leaf: Role(decay=leaf.ndim == 2), params)
    known["stack"]["layer_0"]["mixer"]["convolution"]["kernel"] = Role(decay=True, inputs=())
    known["stack"]["layer_0"]["mixer"]["rates"] = Role(decay=False)
    state = Muon().build(STEPS, params, known).init(params)
    moved = {path.split("/mu/")[1] for path in flatten(state) if "/muon/" in path and "/mu/" in path}
    assert moved == {f"stack/layer_{layer}/mixer/{name}/kernel" for layer in range(3) for name in ("up", "down")}
    with pytest.raises(ValueError, match="no parameter is one; use AdamW"):
        Muon().build(STEPS, {"kernel": draw(1, 4, 4)})


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Lion(b1=1.0), "Lion.b1 is 1.0; it must be 0 or above and below 1"),
        (lambda: Lion(layer_decay=0.0), "Lion.layer_decay is 0.0; it must be a number above 0"),
        (lambda: Adafactor(bound=0.5), "Adafactor.bound is 0.5; it must be 1 or above"),
        (lambda: Muon(rms=0.0), "Muon.rms is 0.0; it must be a number above 0, or none"),
        (lambda: ScheduleFreeAdamW(b1=0.0), "ScheduleFreeAdamW.b1 is 0; it must be above 0 and below 1"),
        (lambda: Muon(clip=-1.0), "clip is -1.0; give a norm above 0"),
        (lambda: SOAP(every=0), "SOAP.every is 0; it must be 1 or above"),
    ],
)
def test_settings_that_cannot_be_are_refused(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


MODEL = Transformer(
    TokenEmbed(16, 8),
    Stack(Block(Attention(2, causal=True, position=RoPE()), MLP(2.0), PreNorm(RMSNorm())), 2, RMSNorm(), scan=True),
    LogitsHead(),
)
TRAINED: list[Any] = [
    Lion(Constant(3e-3)),
    Adafactor(Constant(3e-2), factored=8),
    Muon(Constant(1e-2)),
    ScheduleFreeAdamW(Constant(1e-2)),
    SOAP(Constant(1e-2), every=3, largest=8),
]
WAYS: dict[str, Parallel] = {"pmap": Pmap(), "mesh": Mesh(data=4, fsdp=2)}


def batch(seed: int) -> Any:
    """Rows that count upwards, so that a token tells the next."""
    start = np.random.default_rng(seed).integers(0, 16, (8, 1))
    return {"tokens": ((start + np.arange(12)) % 16).astype(np.int32)}


@functools.cache
def run(optimizer: Any, way: str, steps: int = STEPS) -> tuple[Any, list[float]]:
    """A whole copy of the parameters after some steps, and the loss of each."""
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), batch(0))["params"]
    chance = np.random.default_rng(1)
    start = jax.tree.map(lambda leaf: chance.normal(0.0, 0.3, leaf.shape).astype(np.float32), shapes)
    parallel = Jit() if way == "jit" else WAYS[way]
    transform = optimizer.build(STEPS, shapes, roles(MODEL, batch(0)))
    at = placing(optimizer)
    step = parallel.compile_step(make_step(MODEL, NextToken(), transform, interpolate=at))
    state, losses = parallel.start(lambda: initialise(start, transform, 0)), []
    for index in range(steps):
        state, sums = step(state, parallel.put(batch(index)))
        losses.append(float(sums["loss"].value / sums["loss"].weight))
    return jax.device_get(parallel.whole(state).params), losses


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", TRAINED, ids=name_of)
def test_a_model_learns(optimizer: Any) -> None:
    params, losses = run(optimizer, "jit", 40)
    total, sums = jax.jit(make_loss(MODEL, NextToken()))(params, batch(100))
    assert float(total / sums["loss"].weight) < 0.85 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("optimizer", TRAINED, ids=name_of)
def test_steps_on_several_devices_are_those_of_one(optimizer: Any, way: str) -> None:
    (one, losses), (many, others) = run(optimizer, "jit"), run(optimizer, way)
    np.testing.assert_allclose(losses, others, rtol=1e-3)
    # a sign turns where the sums of the devices round a gradient of zero to the other side, and eigenvectors of near
    # eigenvalues turn
    differs = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True)]
    assert max(differs) < (2e-2 if isinstance(optimizer, Lion | SOAP) else 2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Lion()", "Adafactor(factored=8)", "Muon()", "ScheduleFreeAdamW()", "SOAP(every=2)"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    name: str, workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop)
    monkeypatch.setenv("MORPHAX_CACHE", str(workshop / "cache"))
    options = (f"optimizer={name}", "steps=6", "evaluation.every=3", "checkpoints.every=2")
    assert train(tmp_path / "whole", *options) == 0
    monkeypatch.setenv("MORPHAX_SIGNAL", "step 4 SIGINT")
    assert train(tmp_path / "parts", *options) == 130
    monkeypatch.delenv("MORPHAX_SIGNAL")
    assert train(tmp_path / "parts", *options) == 0
    like = abstract_state(tmp_path / "whole", LANGUAGE_MODEL)
    (whole, _), (parts, _) = restored(tmp_path / "whole", like), restored(tmp_path / "parts", like)
    assert same_bits(whole, parts)
    if name.startswith("ScheduleFree"):
        y = ScheduleFreeAdamW().interpolate(whole.params, whole.opt_state)
        assert not same_bits(whole.params, y)


@pytest.mark.slow
def test_a_step_of_schedule_free_takes_the_gradient_between() -> None:
    """At y = b1 x + (1 - b1) z and not at x, of which another gradient would come."""
    optimizer = ScheduleFreeAdamW(Constant(0.1), clip=None)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), batch(0))["params"]
    chance = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(chance.normal(0.0, 0.3, leaf.shape), jnp.float32), shapes)
    transform = optimizer.build(STEPS, params)
    state = initialise(params, transform, 0)
    (inner,) = [
        leaf
        for leaf in jax.tree.leaves(
            state.opt_state, is_leaf=lambda leaf: isinstance(leaf, optax.contrib.ScheduleFreeState)
        )
        if isinstance(leaf, optax.contrib.ScheduleFreeState)
    ]
    moved = dataclasses.replace(state, opt_state=inner._replace(z=jax.tree.map(lambda leaf: leaf + 0.2, inner.z)))
    step: Any = jax.jit(make_step(MODEL, NextToken(), transform, interpolate=optimizer.interpolate))
    (_, sums), (_, shifted) = step(state, batch(0)), step(moved, batch(0))
    between = jax.tree.map(lambda leaf: 0.9 * leaf + 0.1 * (leaf + 0.2), params)
    expected, _ = jax.jit(make_loss(MODEL, NextToken()))(between, batch(0))
    np.testing.assert_allclose(shifted["loss"].value, expected, rtol=1e-5)
    assert abs(float(sums["loss"].value - expected)) > 1e-3
