"""The same step compiled three ways: one device, pmap, a mesh of data and fsdp axes."""

import dataclasses
import functools
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from models import (
    Attention,
    Block,
    Context,
    Decoding,
    Dropout,
    LogitsHead,
    PreNorm,
    RMSNorm,
    RoPE,
    Stack,
    TokenEmbed,
    Transformer,
    bert,
    replace,
)
from models.backend.platform import compile_for
from models.contracts import Batch
from models.paths import path_name
from train.contracts import Parallel
from train.data.batches import Arrays
from train.data.tasks.text import Text
from train.engine.step import TrainState, initialise, make_evaluation, make_step
from train.objectives import Classification, NextToken
from train.optimizers import SGD, AdamW, Constant
from train.parallel import Jit, Mesh, Pmap
from train.sums import Moments, Sum, Sums, compute_interval, compute_means

STEPS = 5
ROWS, LENGTH, MOST = 16, 16, 4
# Adam divides rounding noise by itself where a gradient is zero in exact arithmetic (a key's bias); epsilon keeps that
# noise small.
ADAMW = AdamW(Constant(3e-3), epsilon=1e-5)
CLASSIFIER = bert.classifier(
    2, bert.transformer(vocab=256, width=16, depth=2, heads=2, hidden=32, length=16, types=0, dropout=0.0)
)
CLASSIFIER = replace(CLASSIFIER, "stack.block.mixer.dropout", 0.0)
CAUSAL = Transformer(
    TokenEmbed(256, 16),
    Stack(Block(Attention(2, causal=True, position=RoPE()), residual=PreNorm(RMSNorm())), repeats=2, norm=RMSNorm()),
    LogitsHead(),
)
TASKS: dict[str, tuple[Transformer, Any]] = {
    "classifier": (CLASSIFIER, Classification()),
    "causal": (CAUSAL, NextToken()),
}
WAYS: dict[str, Parallel] = {
    "jit": Jit(),
    "pmap": Pmap(),
    "mesh": Mesh(data=4, fsdp=2),
    "data": Mesh(data=8),
    "fsdp": Mesh(fsdp=8),
}


class Trained(NamedTuple):
    """What five steps leave: layouts of the state born, the last state, a whole copy of it, whether all old buffers
    went, sums a step.
    """

    born: dict[str, Any]
    state: TrainState
    whole: Any
    donated: bool
    sums: list[Sums]


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> list[Arrays]:
    """Five packed batches of 20 sentences: several a row, different numbers of them, some rows empty."""
    chance = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnop"))
    lines = [
        f"{''.join(chance.choice(letters, chance.integers(2, 13)))},{chance.choice(['no', 'yes'])}"
        for _ in range(20 * STEPS)
    ]
    path = tmp_path_factory.mktemp("table") / "table.csv"
    path.write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    data = Text(path=str(path), test=str(path), length=LENGTH, segments=MOST).open()
    return list(data.batches("train", 20, ROWS, seed=0).stream(0, STEPS))


def structure(task: str, scan: bool) -> Transformer:
    """One layer as a loop, or two scanned."""
    return replace(replace(TASKS[task][0], "stack.scan", scan), "stack.repeats", 2 if scan else 1)


@functools.cache
def parameters(task: str, scan: bool) -> Any:
    """Parameters drawn by numpy: that needs no compilation."""
    tokens = {"tokens": np.zeros((1, LENGTH), np.int32)}
    shapes = jax.eval_shape(structure(task, scan).init, jax.random.key(0), tokens)["params"]
    chance = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: chance.normal(0.0, 0.3, leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def trained(batches: list[Arrays]) -> Any:
    """(task, scan, way) -> what five steps from the same start on the same batches leave."""

    @functools.cache
    def train(task: str, scan: bool, way: str) -> Trained:
        model, objective, parallel = structure(task, scan), TASKS[task][1], WAYS[way]
        params = parameters(task, scan)
        optimizer = ADAMW.build(STEPS, params)
        state: TrainState = parallel.start(lambda: initialise(params, optimizer, 0))
        born = layouts(state)
        chex.clear_trace_counter()
        step = parallel.compile_step(chex.assert_max_traces(make_step(model, objective, optimizer), n=1))
        donated, sums = True, []
        for batch in batches:
            before = jax.tree.leaves((state.params, state.opt_state))
            state, counted = step(state, parallel.put(batch))
            donated &= all(leaf.is_deleted() for leaf in before)
            sums.append(jax.device_get(counted))
        return Trained(born, state, jax.device_get(parallel.whole(state)), donated, sums)

    return train


@pytest.fixture(scope="module")
def measured(batches: list[Arrays], trained: Any) -> Any:
    """(task, way) -> the sums of an evaluation after the steps of the looped model."""

    @functools.cache
    def measure(task: str, way: str) -> dict[str, Moments]:
        parallel = WAYS[way]
        evaluation = parallel.compile_evaluation(make_evaluation(structure(task, False), TASKS[task][1]))
        return jax.device_get(evaluation(trained(task, False, way).state.params, parallel.put(batches[0])))

    return measure


def layouts(state: TrainState) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], int]]:
    """Shape, shape of one shard and number of different shards, of every parameter and every leaf of the optimizer's
    state.
    """
    trees = {"params": state.params, "opt_state": state.opt_state}
    return {
        path_name(path): (
            leaf.shape,
            leaf.addressable_shards[0].data.shape,
            len({str(one.index) for one in leaf.addressable_shards}),
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(trees)
    }


def close(left: Any, right: Any, tolerance: float = 1e-5) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=path_name(path))


def test_the_batches_are_ragged(batches: list[Arrays]) -> None:
    for batch in batches:
        counts = batch["weights"].sum(-1)
        assert batch["tokens"].shape == (ROWS, LENGTH)
        assert counts.sum() == 20
        assert 0 in counts
        assert len(set(counts[counts > 0])) > 1
    shares = batches[0]["weights"].reshape(8, -1).sum(-1)
    assert len(set(shares)) > 1  # devices of a pmap hold different weights, so a mean of their means would be wrong


@pytest.mark.represented_by("mesh-causal-scanned")
@pytest.mark.parametrize("scan", [False, True], ids=["looped", "scanned"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("way", ["pmap", "mesh"])
def test_five_steps_give_the_parameters_of_one_device(trained: Any, task: str, scan: bool, way: str) -> None:
    one, many = trained(task, scan, "jit"), trained(task, scan, way)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), one.whole.params, parameters(task, scan))
    assert (
        min(far for path, far in jax.tree_util.tree_leaves_with_path(moved) if "key/bias" not in path_name(path)) > 1e-3
    )
    close(many.whole, one.whole)
    for ours, theirs in zip(many.sums, one.sums, strict=True):
        close(ours, theirs, 1e-4)


@pytest.mark.represented_by("fsdp")
@pytest.mark.parametrize("way", ["data", "fsdp"])
def test_a_mesh_of_one_axis_gives_the_parameters_of_one_device(trained: Any, way: str) -> None:
    close(trained("causal", False, way).whole, trained("causal", False, "jit").whole)


@pytest.mark.represented_by("mesh-causal")
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("way", ["pmap", "mesh"])
def test_evaluation_sums_are_those_of_one_device(measured: Any, task: str, way: str) -> None:
    one, many = measured(task, "jit"), measured(task, way)
    for name, total in many.items():
        close(total[:3], one[name][:3])
        close(compute_interval([total]), compute_interval([one[name]]), 1e-4)
        assert all(np.ndim(part) == 0 for part in total)
    assert many["loss"].weight == one["loss"].weight > 0


@pytest.mark.parametrize("task", TASKS)
def test_five_steps_lower_the_loss(trained: Any, measured: Any, task: str) -> None:
    assert compute_means(measured(task, "jit"))["loss"] < compute_means(trained(task, False, "jit").sums[0])["loss"]


@pytest.mark.represented_by("causal-scanned")
@pytest.mark.parametrize("scan", [False, True], ids=["looped", "scanned"])
@pytest.mark.parametrize("task", TASKS)
def test_parameters_and_both_moments_are_sharded_over_fsdp(trained: Any, task: str, scan: bool) -> None:
    run = trained(task, scan, "mesh")
    after = layouts(run.state)
    assert run.born == after  # born sharded, and kept so by the step
    sharded = {path for path, (shape, shard, _) in after.items() if np.prod(shard) < np.prod(shape)}
    kernels = {path for path in after if path.endswith(("kernel", "token", "position/table"))}
    assert kernels <= sharded
    for path in kernels:
        shape, shard, different = after[path]
        assert different == 2  # two halves, each on the four devices of one fsdp place
        assert np.prod(shard) * 2 == np.prod(shape)
    for moment in ("mu", "nu"):
        names = {path.split(f"/{moment}/")[1] for path in sharded if f"/{moment}/" in path}
        assert names == {path.removeprefix("params/") for path in sharded if path.startswith("params/")}


@pytest.mark.parametrize("way", ["jit", "pmap", "mesh"])
def test_a_step_deletes_the_buffers_it_is_given(trained: Any, way: str) -> None:
    assert trained("causal", True, way).donated


def test_pmap_puts_the_devices_first(trained: Any, batches: list[Arrays]) -> None:
    state = trained("causal", True, "pmap").state
    devices = jax.local_device_count()
    assert devices == 8
    for leaf, start in zip(jax.tree.leaves(state.params), jax.tree.leaves(parameters("causal", True)), strict=True):
        assert leaf.shape == (devices, *start.shape)
        assert {shard.data.shape for shard in leaf.addressable_shards} == {(1, *start.shape)}
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[0], leaf.shape))
    placed = Pmap().put(batches[0])
    for name, value in batches[0].items():
        assert placed[name].shape == (devices, ROWS // devices, *value.shape[1:])
        assert len({shard.device for shard in placed[name].addressable_shards}) == devices
        np.testing.assert_array_equal(np.asarray(placed[name]).reshape(value.shape), value)


def test_a_pmap_evaluates_and_answers_on_the_devices_of_its_step() -> None:
    with compile_for(jax.devices()[:4]):
        parallel = Pmap()
        params, batch = parallel.spread({"scale": jnp.float32(2)}), parallel.put({"x": np.arange(8, dtype=np.float32)})
        evaluate = parallel.compile_evaluation(
            lambda params, batch, axis: jax.lax.psum(params["scale"] * batch["x"].sum(), axis)
        )
        assert evaluate(params, batch) == 56
        outputs = parallel.compile_outputs(lambda params, batch: params["scale"] * batch["x"])(params, batch)
        np.testing.assert_array_equal(outputs, 2 * np.arange(8))
        assert len(parallel.whole(params)["scale"].devices()) == 1


def test_a_mesh_splits_a_batch_over_all_its_devices(batches: list[Arrays]) -> None:
    for way in (Mesh(data=4, fsdp=2), Mesh(data=8), Mesh(fsdp=8)):
        for name, value in way.put(batches[0]).items():
            assert {shard.data.shape for shard in value.addressable_shards} == {(ROWS // 8, *value.shape[1:])}
            np.testing.assert_array_equal(value, batches[0][name])


@pytest.mark.parametrize("way", list(WAYS))
def test_whole_and_spread_are_inverses(way: str) -> None:
    parallel = WAYS[way]
    params = parameters("causal", True)
    optimizer = ADAMW.build(STEPS, params)
    placed = parallel.start(lambda: initialise(params, optimizer, 0))
    whole = parallel.whole(placed)
    again = parallel.spread(whole)
    assert jax.tree.map(np.shape, whole.params) == jax.tree.map(np.shape, params)
    assert layouts(again) == layouts(placed)
    for left, right in zip(
        jax.tree.leaves((again, parallel.whole(again))), jax.tree.leaves((placed, whole)), strict=True
    ):
        np.testing.assert_array_equal(left, right)


def test_a_dimension_that_the_axis_does_not_divide_stays_whole() -> None:
    mesh = Mesh(data=2, fsdp=4)
    tree = {"up": {"kernel": np.zeros((6, 8))}, "down": {"kernel": np.zeros((6, 8))}, "scale": np.zeros(8)}
    placed = mesh.spread(tree)
    specs = {path_name(path): leaf.sharding.spec for path, leaf in jax.tree_util.tree_leaves_with_path(placed)}
    assert "fsdp" not in specs["up/kernel"]  # 6 rows over 4 devices
    assert specs["down/kernel"] == PartitionSpec(None, "fsdp")
    assert "fsdp" not in specs["scale"]
    assert placed["up"]["kernel"].addressable_shards[0].data.shape == (6, 8)
    assert placed["down"]["kernel"].addressable_shards[0].data.shape == (6, 2)


def test_a_rule_of_ones_own_comes_before_none() -> None:
    placed = Mesh(data=4, fsdp=2, rules=(("scale$", ("fsdp",)),)).spread(
        {"scale": np.zeros(8), "up": {"kernel": np.zeros((8, 8))}}
    )
    assert placed["scale"].addressable_shards[0].data.shape == (4,)
    assert placed["up"]["kernel"].addressable_shards[0].data.shape == (8, 8)


def test_a_mesh_takes_the_devices_that_fsdp_leaves_and_refuses_more_than_there_are() -> None:
    assert dict(Mesh(fsdp=2).mesh().shape) == {"data": 4, "fsdp": 2}
    assert (Jit().size(), Pmap().size(), Mesh(fsdp=2).size(), Mesh(data=2, fsdp=2).size()) == (1, 8, 8, 4)
    for wrong in (Mesh(data=8, fsdp=2), Mesh(fsdp=16)):
        with pytest.raises(ValueError, match="does not fit on 8 devices"):
            wrong.mesh()


class Dropped(nn.Module):
    """A model whose output is a row of ones after dropout, times a parameter."""

    @nn.compact
    def __call__(self, batch: Batch, train: bool = False, decoding: Decoding | None = None) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (64,))
        return Dropout(0.5)(jnp.broadcast_to(scale, (batch["place"].shape[0], 64)), Context(train=train))


@dataclasses.dataclass(frozen=True)
class Rows:
    """An objective that sums each device's output into a row of its own."""

    def __call__(self, outputs: jax.Array, batch: Batch) -> Sums:
        return {"loss": Sum(outputs.sum(), jnp.ones(())), "rows": Sum(batch["place"].T @ outputs, jnp.ones(()))}

    def answer(self, output: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
        return {}


def test_the_devices_of_a_pmap_drop_different_elements() -> None:
    parallel = Pmap()
    optimizer = SGD(Constant(0.0)).build(2, {})
    state = parallel.start(lambda: initialise({"scale": jnp.ones(64)}, optimizer, 0))
    step = parallel.compile_step(make_step(Dropped(), Rows(), optimizer))
    batch = parallel.put({"place": np.eye(8, dtype=np.float32)})
    state, first = step(state, batch)
    _, second = step(state, batch)
    masks = np.concatenate([first["rows"].value, second["rows"].value])
    assert set(masks.ravel().tolist()) == {0.0, 2.0}
    assert len({tuple(mask) for mask in masks.tolist()}) == 16
