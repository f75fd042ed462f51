"""What of every component's parameters and their optimizer's state a mesh of eight devices splits, from shapes
alone.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models.laws.inputs
from models import Block, Experts, GatedDeltaNet, LogitsHead, ProductKeyMemory, Stack, TokenEmbed, Transformer, bert
from models.parametrization import widen
from models.paths import count_stacked, path_name
from tests.laws.components import arguments, component_classes, forms_of
from train.optimizers import AdamW
from train.parallel import Mesh
from train.parallel.mesh import SMALL

WIDTH = 128
EIGHT = Mesh(fsdp=8)


def parts(tree: Any) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """The shape and the shape of one device's part of every leaf."""
    placed = zip(jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(EIGHT.shardings(tree)), strict=True)
    return {path_name(path): (leaf.shape, sharding.shard_shape(leaf.shape)) for (path, leaf), sharding in placed}


def replicated(tree: Any) -> float:
    """The share of numbers that every device keeps."""
    sizes = [(math.prod(whole), whole == part) for whole, part in parts(tree).values()]
    return sum(size for size, kept in sizes if kept) / sum(size for size, _ in sizes)


def wide(form: Any) -> Any:
    if hasattr(form, "embed"):
        return widen(form, WIDTH)
    return dataclasses.replace(form, width=WIDTH) if getattr(form, "width", None) == models.laws.inputs.WIDTH else form


QUICK = ("Attention", "Experts", "SoftMoE", "Mamba1", "ProductKeyMemory", "TokenEmbed", "Monarch", "KimiDeltaAttention")


@pytest.mark.parametrize(
    "owner",
    [
        pytest.param(owner, id=owner.__name__, marks=() if owner.__name__ in QUICK else pytest.mark.slow)
        for owner in component_classes()
    ],
)
def test_every_large_parameter_of_every_component_is_split_eight_ways(
    owner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {name: wide(form) for name, form in forms_of(owner).items()}
    monkeypatch.setattr(models.laws.inputs, "WIDTH", WIDTH)
    for form in own.values():
        given = arguments(form)
        shapes = jax.eval_shape(lambda form=form, given=given: form.init(jax.random.key(0), *given)).get("params", {})
        for path, (whole, part) in parts(shapes).items():
            repeats = count_stacked(path)
            assert part[:repeats] == whole[:repeats], path
            if (
                len(whole) - repeats > 1
                and math.prod(whole[repeats:]) >= SMALL
                and any(size % 8 == 0 for size in whole[repeats:])
            ):
                assert math.prod(part) * 8 == math.prod(whole), (path, whole)


MEMORY = ProductKeyMemory(16, active=8)
MODELS = {
    "experts": Transformer(TokenEmbed(1000, 64), Stack(Block(feedforward=Experts(8, 2)), 2, scan=True), LogitsHead()),
    "recurrent": Transformer(TokenEmbed(1000, 64), Stack(Block(GatedDeltaNet(4), MEMORY), 2), LogitsHead(tied=False)),
    # 30,522 is no multiple
    "bert": bert.masked_lm(bert.transformer(vocab=30_522, width=64, depth=1, heads=2, hidden=256, length=64)),
    "tied": Transformer(TokenEmbed(1000, 64), Stack(Block(), 4, tied=True), LogitsHead()),
}


@pytest.mark.parametrize("name", MODELS)
def test_of_a_model_and_its_optimizers_state_a_small_share_is_on_every_device(name: str) -> None:
    batch = {"tokens": jnp.zeros((1, 8), int)}
    params = jax.eval_shape(lambda: MODELS[name].init(jax.random.key(0), batch))["params"]
    state = jax.eval_shape(AdamW().build(10, params).init, params)
    assert replicated(params) < 0.03
    assert replicated(state) < 0.03


def test_experts_are_split_as_feedforwards_are_and_never_between_each_other() -> None:
    batch = {"tokens": jnp.zeros((1, 8), int)}
    params = jax.eval_shape(lambda: MODELS["experts"].init(jax.random.key(0), batch))["params"]
    found = parts(params)
    kernels = {
        path.rsplit("/", 1)[1]: shapes
        for path, shapes in found.items()
        if path.rsplit("/", 1)[1] in ("gate", "up", "down")
    }
    for name, (whole, part) in kernels.items():  # (repeats, experts, d, f) or (repeats, experts, f, d)
        split = [full // own for full, own in zip(whole, part, strict=True)]
        assert split == [1, 1, 1, 8] if name == "down" else [1, 1, 8, 1]


def test_a_dimension_that_the_axis_does_not_divide_leaves_it_to_another() -> None:
    tree = {
        "up": {"kernel": (6, 1024)},  # the rule's 6 rows cannot be split over 8
        "blocks": {"block_0": {"scale": (8, 4096), "strange": (8, 64, 128), "square": (8, 64, 64)}},
        "odd": (4099, 3),
        "few": (8, 8),
    }
    shapes = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, np.float32), tree, is_leaf=lambda leaf: isinstance(leaf, tuple)
    )
    assert {path: part for path, (_, part) in parts(shapes).items()} == {
        "up/kernel": (6, 128),
        "blocks/block_0/scale": (8, 4096),
        "blocks/block_0/strange": (8, 64, 16),
        "blocks/block_0/square": (8, 8, 64),
        "odd": (4099, 3),
        "few": (8, 8),
    }


def test_what_a_rule_gives_no_axis_stays_whole() -> None:
    shapes = {"strange": jax.ShapeDtypeStruct((64, 128), np.float32)}
    (sharding,) = jax.tree.leaves(Mesh(fsdp=8, rules=(("strange", (None, None)),)).shardings(shapes))
    assert sharding.is_fully_replicated
