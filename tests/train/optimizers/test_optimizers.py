"""Schedules against their closed forms, and what the optimizers do to which parameters."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models import MLP, Attention, Block, EncoderDecoder, LogitsHead, Stack, TokenEmbed, Transformer, bert, scanned
from models.paths import path_name
from models.roles import Role
from models.structure import part
from train.contracts import Optimizer, Schedule
from train.optimizers import (
    SGD,
    Adafactor,
    AdamW,
    Constant,
    Cosine,
    Linear,
    Muon,
    Optax,
    ScheduleFreeAdamW,
    WarmupStableDecay,
)
from train.optimizers.transforms import compute_layer_scales

STEPS = 100
PEAK = 2e-3
DEPTH = 4


def linear(place: float, end: float) -> float:
    return PEAK * (1 - (1 - end) * place)


def cosine(place: float, end: float) -> float:
    return PEAK * (end + (1 - end) * (1 + math.cos(math.pi * place)) / 2)


def stable(place: float, end: float) -> float:
    """Over 90 steps after the warmup: 70 at the peak, 20 of fall."""
    return PEAK * (1 - (1 - end) * max(place - 7 / 9, 0) / (2 / 9))


FORMS: dict[str, tuple[Schedule, Any]] = {
    "constant": (Constant(PEAK, warmup=0.1), lambda place: PEAK),
    "linear": (Linear(PEAK, warmup=0.1, end=0.2), functools.partial(linear, end=0.2)),
    "cosine": (Cosine(PEAK, warmup=0.1, end=0.1), functools.partial(cosine, end=0.1)),
    "stable": (WarmupStableDecay(PEAK, warmup=0.1, decay=0.2, end=0.05), functools.partial(stable, end=0.05)),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("step", [0, 1, 5, 9, 10, 11, 55, 80, 90, 99, 100])
def test_a_rate_is_its_closed_form(name: str, step: int) -> None:
    rate, after = FORMS[name]
    expected = PEAK * step / 10 if step < 10 else after((step - 10) / 90)
    np.testing.assert_allclose(rate.build(STEPS)(step), expected, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(
    ("rate", "last"), [(Linear(PEAK, end=0.3), 0.3), (Cosine(PEAK, end=0.3), 0.3), (WarmupStableDecay(PEAK, 0.0), 0.0)]
)
def test_without_warmup_a_rate_starts_at_its_peak_and_ends_at_its_end(rate: Schedule, last: float) -> None:
    built = rate.build(STEPS)
    np.testing.assert_allclose(np.asarray([built(0), built(STEPS)]), [PEAK, last * PEAK], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("kind", [Constant, Linear, Cosine, WarmupStableDecay])
def test_warmup_is_a_fraction_of_training_below_one_and_a_count_of_steps_from_one(kind: Any) -> None:
    fraction, count = kind(PEAK, warmup=0.25).build(STEPS), kind(PEAK, warmup=25).build(STEPS)
    assert [float(fraction(step)) for step in range(STEPS)] == [float(count(step)) for step in range(STEPS)]
    np.testing.assert_allclose([fraction(0), fraction(12), fraction(25)], [0.0, PEAK * 12 / 25, PEAK], rtol=1e-6)
    assert float(kind(PEAK, warmup=1).build(STEPS)(0)) == 0.0
    np.testing.assert_allclose(kind(PEAK, warmup=1).build(STEPS)(1), PEAK, rtol=1e-6)


def test_decay_of_the_rate_is_a_fraction_or_a_count_of_steps_too() -> None:
    fraction, count = WarmupStableDecay(PEAK, decay=0.3).build(STEPS), WarmupStableDecay(PEAK, decay=30).build(STEPS)
    assert [np.asarray(fraction(step)) for step in range(STEPS)] == [np.asarray(count(step)) for step in range(STEPS)]


def structure() -> Transformer:
    body = bert.transformer(vocab=16, width=8, depth=DEPTH, heads=2, hidden=16, length=8)
    return bert.classifier(2, body)


@functools.cache
def looped() -> Any:
    """Parameters of a BERT, drawn by numpy: that needs no compilation."""
    shapes = jax.eval_shape(structure().init, jax.random.key(0), {"tokens": np.zeros((1, 4), np.int32)})["params"]
    chance = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(chance.normal(1.0, 0.1, leaf.shape), jnp.float32), shapes)


def rolled(tree: Any, stack: Stack | None = None) -> Any:
    """A looped tree as a scanned one."""
    return {**tree, "stack": scanned(tree["stack"], stack or part(structure(), "stack"))}


TREES = {"looped": looped, "scanned": lambda: rolled(looped())}


def leaves(tree: Any) -> dict[str, np.ndarray]:
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def updated(optimizer: Optimizer, params: Any, gradients: Any, steps: int = 1) -> Any:
    """Parameters after some steps along the same gradients."""
    transform = optimizer.build(STEPS, params)

    @jax.jit
    def run(params: Any) -> Any:
        state = transform.init(params)
        for _ in range(steps):
            updates, state = transform.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
        return params

    return run(params)


def gradients(params: Any) -> Any:
    chance = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(chance.normal(0.0, 1.0, leaf.shape), jnp.float32), params)


@pytest.mark.parametrize("tree", TREES)
def test_decay_shrinks_kernels_and_tables_and_leaves_biases_scales_and_norms(tree: str) -> None:
    params = TREES[tree]()
    still = jax.tree.map(jnp.zeros_like, params)
    after = leaves(updated(AdamW(Constant(0.5), decay=0.1), params, still))
    decayed: set[str] = set()
    for path, before in leaves(params).items():
        if np.array_equal(after[path], before):
            continue
        np.testing.assert_allclose(after[path], before * (1 - 0.5 * 0.1), rtol=1e-6)
        decayed.add(path)
    assert decayed == {path for path in after if path.endswith(("/kernel", "/token", "/type", "/table"))}
    assert {path for path in after if path.endswith(("/bias", "/scale"))} == set(after) - decayed


def test_no_decay_names_the_parameters_that_are_not_decayed() -> None:
    params = looped()
    still = jax.tree.map(jnp.zeros_like, params)
    after = leaves(updated(AdamW(Constant(0.5), decay=0.1, no_decay=("^embed/",)), params, still))
    kept = {path for path, before in leaves(params).items() if np.array_equal(after[path], before)}
    assert kept == {path for path in after if path.startswith("embed/")}


def test_layer_decay_multiplies_the_rate_by_a_power_of_the_distance_from_the_head() -> None:
    scales = leaves(compute_layer_scales(looped(), 0.5))
    for path, scale in scales.items():
        if path.startswith("embed/"):
            power = DEPTH + 1
        elif path.startswith("head/"):
            power = 0
        else:
            power = DEPTH - int(path.split("layer_")[1].split("/")[0])
        np.testing.assert_allclose(scale, 0.5**power, rtol=1e-6, err_msg=path)


@pytest.mark.slow
def test_layer_decay_scales_the_whole_update_of_a_layer() -> None:
    params = looped()
    plain, scaled = (
        updated(AdamW(Constant(0.1), layer_decay=decay), params, gradients(params)) for decay in (None, 0.5)
    )
    before, far, near = leaves(params), leaves(plain), leaves(scaled)
    for path, scale in leaves(compute_layer_scales(params, 0.5)).items():
        np.testing.assert_allclose(
            near[path] - before[path], (far[path] - before[path]) * scale, rtol=1e-3, atol=1e-6, err_msg=path
        )


@pytest.mark.represented_by("1")
@pytest.mark.parametrize("width", [1, 2])
def test_a_scanned_stack_is_updated_as_the_looped_one(width: int) -> None:
    block = part(structure(), "stack.block")
    stack = Stack(tuple([block] * width), repeats=DEPTH // width)
    params = {"embed": looped()["embed"], "stack": looped()["stack"]}
    slopes = gradients(params)
    optimizer = AdamW(Constant(0.1), layer_decay=0.7, decay=0.1, clip=1.0, freeze=("query/", "embed/token"))
    one = updated(optimizer, params, slopes, 2)
    other = updated(optimizer, rolled(params, stack), rolled(slopes, stack), 2)
    expected, found = leaves(rolled(one, stack)), leaves(other)
    assert expected.keys() == found.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, rtol=1e-5, atol=1e-6, err_msg=path)


FROZEN = ("^embed/", "layer_0/")
FREEZING: list[Optimizer] = [
    SGD(Constant(0.1), momentum=0.9, freeze=FROZEN),
    AdamW(Constant(0.1), freeze=FROZEN),
    AdamW(Constant(0.1), layer_decay=0.5, freeze=FROZEN),
    Optax("lion", Constant(0.1), {"weight_decay": 0.1}, freeze=FROZEN),
    *(kind(Constant(0.1), freeze=FROZEN) for kind in (Adafactor, Muon, ScheduleFreeAdamW)),
]


@pytest.mark.represented_by("AdamW-None", "AdamW-0.5")
@pytest.mark.parametrize(
    "optimizer", FREEZING, ids=lambda optimizer: f"{type(optimizer).__name__}-{getattr(optimizer, 'layer_decay', None)}"
)
def test_what_is_frozen_keeps_every_bit_and_has_no_moments(optimizer: Optimizer) -> None:
    params = looped()
    before, after = leaves(params), leaves(updated(optimizer, params, gradients(params), 2))
    frozen = {path for path in before if path.startswith("embed/") or "layer_0/" in path}
    assert {path for path in before if np.array_equal(before[path], after[path])} == frozen
    state = leaves(optimizer.build(STEPS, params).init(params))
    kept = {name: path for path in state for name in before if path.endswith(f"/{name}")}
    assert set(kept) == set(before) - frozen


@pytest.mark.parametrize("kind", [SGD, AdamW, Optax])
def test_freeze_refuses_a_pattern_that_matches_no_parameter(kind: Any) -> None:
    with pytest.raises(ValueError, match="freeze has 'layer_9/', which matches no parameter"):
        kind(freeze=("embed/", "layer_9/")).build(STEPS, looped())


@pytest.mark.parametrize("kind", [SGD, Optax])
def test_clip_bounds_the_global_norm_of_the_gradient(kind: Any) -> None:
    params = looped()
    optimizer = SGD(Constant(1.0), clip=0.5) if kind is SGD else Optax("sgd", Constant(1.0), clip=0.5)
    slopes = gradients(params)
    moved = jax.tree.map(jnp.subtract, params, updated(optimizer, params, slopes))
    np.testing.assert_allclose(norm(moved), 0.5, rtol=1e-4)
    ratio = norm(slopes) / 0.5
    for path, value in leaves(moved).items():
        np.testing.assert_allclose(value * ratio, leaves(slopes)[path], rtol=1e-2, atol=1e-3)
    small = jax.tree.map(lambda leaf: leaf * 0.1 / norm(slopes), slopes)
    assert norm(jax.tree.map(jnp.subtract, params, updated(optimizer, params, small))) == pytest.approx(0.1, rel=1e-3)


def norm(tree: Any) -> float:
    return math.sqrt(sum(float(np.square(leaf, dtype=np.float64).sum()) for leaf in jax.tree.leaves(tree)))


def test_adamw_is_its_recurrence() -> None:
    """arXiv:1711.05101, algorithm 2, in float64."""
    rate, b1, b2, epsilon, decay = 0.1, 0.8, 0.95, 1e-6, 0.2
    theta, slopes = np.array([1.0, -2.0, 0.5]), np.array([0.3, -0.1, 2.0])
    params = {"kernel": jnp.asarray(theta, jnp.float32)}
    optimizer = AdamW(Constant(rate), b1, b2, epsilon, decay, no_decay=(), clip=None)
    found = updated(optimizer, params, {"kernel": jnp.asarray(slopes, jnp.float32)}, 3)
    m, v = np.zeros(3), np.zeros(3)
    for step in (1, 2, 3):
        m, v = b1 * m + (1 - b1) * slopes, b2 * v + (1 - b2) * slopes**2
        theta = theta - rate * (m / (1 - b1**step) / (np.sqrt(v / (1 - b2**step)) + epsilon) + decay * theta)
    np.testing.assert_allclose(found["kernel"], theta, rtol=1e-5)


def test_momentum_adds_up_gradients() -> None:
    params = {"kernel": jnp.array([1.0, 2.0])}
    found = updated(SGD(Constant(0.1), momentum=0.5), params, {"kernel": jnp.array([1.0, -1.0])}, 2)
    np.testing.assert_allclose(found["kernel"], [1 - 0.1 * (1 + 1.5), 2 + 0.1 * (1 + 1.5)], rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["sgd", "adam", "adamw", "lion", "adafactor", "lamb", "rmsprop", "radam", "adagrad", "novograd"]
)
def test_optax_reaches_an_optimizer_by_its_name(name: str) -> None:
    params = {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
    slopes = {"kernel": jnp.array([[1.0, -1.0], [0.5, 2.0]])}
    transform = getattr(optax, name)(lambda step: 0.1)
    updates, _ = transform.update(slopes, transform.init(params), params)
    expected: Any = optax.apply_updates(params, updates)
    np.testing.assert_allclose(
        updated(Optax(name, Constant(0.1)), params, slopes)["kernel"], expected["kernel"], rtol=1e-6
    )


def test_optax_passes_arguments_on() -> None:
    params, slopes = {"kernel": jnp.array([1.0, 2.0])}, {"kernel": jnp.array([1.0, -1.0])}
    found = updated(Optax("sgd", Constant(0.1), {"momentum": 0.5}), params, slopes, 2)
    np.testing.assert_array_equal(
        found["kernel"], updated(SGD(Constant(0.1), momentum=0.5), params, slopes, 2)["kernel"]
    )


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("lyon", {}, "did you mean 'lion'"),
        ("adamww", {}, "did you mean 'adamw'"),
        ("apply_updates", {}, "optax has no optimizer called 'apply_updates'"),
        ("__class__", {}, "optax has no optimizer"),
        ("lion", {"beta1": 0.9}, "optax.lion has no argument 'beta1'; did you mean 'b1'"),
    ],
)
def test_optax_refuses_wrong_names(name: str, arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Optax(name, arguments=arguments)


def test_the_rate_of_the_schedule_is_the_rate_of_the_step() -> None:
    params, slopes = {"kernel": jnp.zeros(1)}, {"kernel": jnp.ones(1)}
    rate = Linear(0.3, warmup=3)
    places = [0.0, *np.cumsum([-np.asarray(rate.build(STEPS)(step)) for step in range(6)])]
    found = [float(updated(SGD(rate), params, slopes, steps)["kernel"][0]) for steps in range(7)]
    np.testing.assert_allclose(found, places, rtol=1e-5, atol=1e-7)


def test_a_scanned_parameter_has_the_scale_of_each_of_its_layers() -> None:
    one, other = compute_layer_scales(looped(), 0.6), compute_layer_scales(rolled(looped()), 0.6)
    expected, found = (
        leaves(rolled(jax.tree.map(lambda scale, leaf: jnp.full(leaf.shape, scale), one, looped()))),
        leaves(other),
    )
    for path, value in expected.items():
        np.testing.assert_allclose(np.broadcast_to(found[path], value.shape), value, rtol=1e-6, err_msg=path)


PREFIXED = Stack(Block(MLP(1.0), None), 2, prefix=(Block(MLP(1.0), None), Block(MLP(1.0), None)))


def scales_of(model: Any) -> dict[str, Any]:
    """The power of the decay in the rates of some kernel of each block, of the embedding and of the head."""
    batch = {"tokens": jnp.zeros((1, 4), int), "source": jnp.zeros((1, 4), int)}
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), batch))["params"]
    powers = {
        path: np.round(-np.log2(np.asarray(scale)), 3).ravel().tolist()
        for path, scale in leaves(compute_layer_scales(params, 0.5)).items()
    }
    return {path: power for path, power in powers.items() if path.endswith(("up/kernel", "token", "head/table"))}


@pytest.mark.parametrize(
    ("stack", "powers"),
    [
        (PREFIXED, {"first_0": [4], "first_1": [3], "layer_0": [2], "layer_1": [1]}),
        (dataclasses.replace(PREFIXED, scan=True), {"first_0": [4], "first_1": [3], "blocks/block_0": [2, 1]}),
        (dataclasses.replace(PREFIXED, tied=True), {"first_0": [3], "first_1": [2], "tied/block_0": [1]}),
        (
            Stack((Block(MLP(1.0), None), Block(MLP(2.0), None)), 2, tied=True),
            {"tied/block_0": [2], "tied/block_1": [1]},
        ),
    ],
    ids=["loop", "scan", "tied", "tied_pattern"],
)
def test_blocks_of_a_prefix_come_first_and_tied_repeats_are_one(stack: Stack, powers: dict[str, list[float]]) -> None:
    found = scales_of(Transformer(TokenEmbed(11, 8), stack, LogitsHead(tied=False)))
    assert found.pop("embed/token") == [max(max(powers.values())) + 1]
    assert found.pop("head/table") == [0]
    assert found == {f"stack/{block}/mixer/up/kernel": power for block, power in powers.items()}


def test_each_stack_of_a_model_has_its_own_depth() -> None:
    block, cross = Block(MLP(1.0), None), Block(MLP(1.0), None, cross=Attention(2, cross=True))
    found = scales_of(EncoderDecoder(TokenEmbed(11, 8), Stack(block, 4), Stack(cross, 2), LogitsHead()))
    assert (
        found["encoder/layer_3/mixer/up/kernel"],
        found["decoder/layer_1/mixer/up/kernel"],
        found["decoder/layer_0/mixer/up/kernel"],
    ) == ([1], [1], [2])
    assert found["embed/token"] == [5]


def test_layer_decay_without_a_stack_is_refused() -> None:
    with pytest.raises(
        ValueError, match="layer_decay has a rate for each block of a stack, and no parameter is in one"
    ):
        AdamW(layer_decay=0.5).build(STEPS, {"kernel": jnp.zeros((2, 2))})


STEPPED: list[Optimizer] = [
    SGD(Constant(0.5), clip=1e-3),
    AdamW(Constant(0.5), decay=0.3, clip=1e-3),
    Optax("lion", Constant(0.5), {"weight_decay": 0.1}, clip=1e-3),
    ScheduleFreeAdamW(Constant(0.5), decay=0.3, clip=1e-3),
]


@pytest.mark.parametrize("optimizer", STEPPED, ids=lambda optimizer: type(optimizer).__name__)
def test_a_role_with_a_step_moves_by_it_and_touches_nothing_else(optimizer: Any) -> None:
    params = {"bias": jnp.array([1.0, 2.0, 3.0]), "kernel": jnp.ones((2, 2))}
    roles = {"bias": Role(decay=False, step=0.01), "kernel": Role(decay=True)}
    slopes = {"bias": jnp.array([1e6, -1e-6, 0.0]), "kernel": jnp.full((2, 2), 0.3)}

    def after(params: Any, slopes: Any, roles: Any) -> Any:
        transform = optimizer.build(STEPS, params, roles)
        updates, state = transform.update(slopes, transform.init(params), params)
        return updates, state

    (moved, state), (alone, _) = (
        after(params, slopes, roles),
        after(*({"kernel": tree["kernel"]} for tree in (params, slopes, roles))),
    )
    np.testing.assert_allclose(moved["bias"], [-0.01, 0.01, 0.0], rtol=1e-6)
    np.testing.assert_allclose(moved["kernel"], alone["kernel"], rtol=1e-6)
    assert not any(path.endswith("bias") for path in leaves(state))
    held = dataclasses.replace(optimizer, freeze=("bias",)).build(STEPS, params, roles)
    np.testing.assert_array_equal(held.update(slopes, held.init(params), params)[0]["bias"], np.zeros(3))
