"""Roles of the parameters of every component: what is decayed, declared or by default, alone and within stacks."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from models import (
    RWKV7,
    Block,
    Context,
    GatedDeltaNet,
    LayerScale,
    LearnedPosition,
    Mamba1,
    PatchEmbed,
    Stack,
    TokenEmbed,
    Transformer,
)
from models.paths import Layer, count_stacked, path_name
from models.roles import Role, Roles, declarations, default_roles, roles_of
from tests.laws.components import arguments, component_classes, forms_of

WIDTH = 16
BATCH: Any = {"tokens": jax.ShapeDtypeStruct((2, 8), jnp.int32)}


class Called:
    """A component as a model: init with the arguments of its kind."""

    def __init__(self, component: Any) -> None:
        self.component = component

    def init(self, key: jax.Array, batch: Any) -> Any:
        return {"params": {}} | self.component.init(key, *arguments(self.component))


def named_roles(component: Any, batch: Any = None) -> dict[str, Role]:
    model: Any = Called(component) if batch is None else component
    roles = roles_of(model, batch or {})
    return {path_name(path): role for path, role in jax.tree_util.tree_leaves_with_path(roles)}


# Parameters of two axes or more that are not decayed, and of fewer that are, by the class that says so; the sources are
# with the classes.
DECLARED = {
    "AuxiliaryLossFree": {"bias": False},
    "CoPE": {"table": False},
    "ConvEmbed": {"position/table": False, "registers": False},
    "DifferentialAttention": {"key_weight": False, "query_weight": False},
    "DeltaProduct": {"log_rate": False},
    "Engram": {"table": False},
    "GatedDeltaNet": {"log_rate": False},
    "HyperConnections": {"mix": False, "mix_weight": True, "read_weight": True, "write_weight": True},
    "KimiDeltaAttention": {"log_rate": False},
    "LongConvolution": {"filter_0/kernel": False, "filter_1/kernel": False, "filter_out/kernel": False},
    "Mamba1": {"log_rates": False},
    "NativeSparseAttention": {"key_places": False, "value_places": False},
    "PEER": {"up": False, "down": False},
    "PatchEmbed": {"position/table": False, "registers": False},
    "PerLayerEmbedding": {"table": False},
    "ProductKeyMemory": {"values": False},
    "RWKV7": {f"{name}_{way}/kernel": False for name in ("decay", "first", "gate", "rate") for way in ("down", "up")},
    "T5Bias": {"table": False},
    "TubeletEmbed": {"position/table": False, "registers": False},
}


def declared_by(owner: type) -> Any:
    """What the first form of a class declares, which may follow from its fields."""
    return declarations(next(iter(forms_of(owner).values())))


def test_the_declared_roles_are_these() -> None:
    found = {
        owner.__name__: {path: role.decay for path, role in declared.items() if role.decay is not None}
        for owner in component_classes()
        if (declared := declared_by(owner))
    }
    assert {name: decays for name, decays in found.items() if decays} == DECLARED


@pytest.mark.parametrize(
    "owner", [owner for owner in component_classes() if declared_by(owner)], ids=lambda owner: owner.__name__
)
def test_every_declared_role_is_that_of_a_parameter(owner: Any) -> None:
    forms = list(forms_of(owner).values())
    if "position/table" in declared_by(owner):
        size = {"size": 2} if hasattr(owner, "size") else {"strides": (2, 1, 1, 1)}
        forms.append(owner(width=WIDTH, position=LearnedPosition(32), registers=1, **size))
    found = [named_roles(form) for form in forms]
    if owner is RWKV7:  # whose later layers have more
        stack = Stack(Block(RWKV7(4, value_residual=True), None), 2)
        second = named_roles(Transformer(TokenEmbed(11, WIDTH), stack), BATCH).items()
        found.append({path.partition("layer_1/mixer/")[2]: role for path, role in second if "layer_1/mixer/" in path})
    for path, role in declared_by(owner).items():
        assert any(path in roles for roles in found), path
        assert all(role.decay in (None, roles[path].decay) for roles in found if path in roles)


@pytest.mark.represented_by("Attention", "GatedDeltaNet", "Mamba2", "Experts", "HyperConnections", "Transformer")
@pytest.mark.parametrize("owner", component_classes(), ids=lambda owner: owner.__name__)
def test_vectors_and_numbers_are_not_decayed_unless_a_class_says_so(owner: Any) -> None:
    for form in forms_of(owner).values():
        whole = Called(form).init
        shapes = jax.eval_shape(lambda init=whole: init(jax.random.key(0), {}))["params"]
        for (path, leaf), role in zip(
            jax.tree_util.tree_leaves_with_path(shapes), named_roles(form).values(), strict=True
        ):
            axes = len(leaf.shape) - count_stacked(path_name(path))
            if axes < 2 and not path_name(path).endswith("_weight"):  # those of hyper-connections
                assert role.decay is False, path_name(path)


MIXED = Block(GatedDeltaNet(4), residual=LayerScale())
STACKS = {
    "loop": Stack(MIXED, 2),
    "scan": Stack(MIXED, 2, scan=True),
    "tied": Stack(MIXED, 2, tied=True),
}


@pytest.mark.parametrize("name", ["scan", "tied"])
def test_roles_are_the_same_scanned_tied_and_in_a_loop(name: str) -> None:
    def within(stack: Stack) -> dict[str, Role]:
        roles = named_roles(Transformer(TokenEmbed(11, WIDTH), stack), BATCH)
        return {layer.within: role for path, role in roles.items() if (layer := Layer.of(path)) and layer.index == 0}

    assert within(STACKS[name]) == within(STACKS["loop"])
    assert len(within(STACKS[name])) > 10


class Mine(nn.Module):
    """A stranger's layer: experts by vmap, with a bias each, a rate of two axes that nobody declares, and a vector."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        lifted: Any = nn.vmap
        experts = lifted(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=3)
        y = experts(x.shape[-1], name="experts")(x).sum(0)
        return y * self.param("vector", nn.initializers.ones, (x.shape[-1],)) + self.param(
            "table", nn.initializers.ones, (1, x.shape[-1])
        )


class Declaring(Mine):
    """The same, which says what its table is, and what its experts are."""

    roles: ClassVar[Roles] = {"table": Role(decay=False), "experts/kernel": Role(decay=False, step=0.1)}


class Misnamed(nn.Module):
    """A layer whose `roles` are something else."""

    roles: int = 3

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return x


@pytest.mark.parametrize("scan", [False, True])
def test_a_strangers_class_has_defaults_by_the_axes_that_its_own_module_sees(scan: bool) -> None:
    def decays(layer: Any) -> dict[str, bool | None]:
        found = named_roles(Transformer(TokenEmbed(11, WIDTH), Stack(Block(layer, None), 2, scan=scan)), BATCH)
        return {path.split("/mixer/")[1]: role.decay for path, role in found.items() if "/mixer/" in path}

    assert decays(Mine()) == {"experts/bias": False, "experts/kernel": True, "table": True, "vector": False}
    assert decays(Declaring()) == {"experts/bias": False, "experts/kernel": False, "table": False, "vector": False}


def test_a_field_called_roles_that_is_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="Misnamed.roles is 3; it is read as the Role of each parameter by name"):
        roles_of(Transformer(TokenEmbed(11, WIDTH), Stack(Block(Misnamed(), None), 1)), BATCH)


def test_a_component_says_what_a_part_of_it_is() -> None:
    batch = {"image": jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)}
    image = named_roles(Transformer(PatchEmbed(WIDTH, 2, position=LearnedPosition(8)), Stack(repeats=1)), batch)
    text = named_roles(Transformer(TokenEmbed(11, WIDTH, position=LearnedPosition(8)), Stack(repeats=1)), BATCH)
    assert (image["embed/position/table"].decay, text["embed/position/table"].decay) == (False, True)


def test_paths_alone_tell_the_axes_of_repeats() -> None:
    model = Transformer(TokenEmbed(11, WIDTH), Stack(Block(Mamba1(state=2), None), 2, scan=True))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), {"tokens": jnp.zeros((1, 4), int)}))["params"]
    block = default_roles(params)["stack"]["blocks"]["block_0"]
    assert (block["mixer"]["skip"].decay, block["mixer"]["in"]["kernel"].decay) == (False, True)
