"""The laws for a layer of one's own: a sound one passes them all, and each broken one fails what it breaks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from models import Attention, Context, Pooling, ShortConvolution
from tests.laws.own import verdicts
from tests.laws.test_components import Infinite, Unused, Widened

pytestmark = pytest.mark.usefixtures("compile_quickly")


class RunningMean(nn.Module):
    """Broken where rows are packed: reads across examples."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return nn.Dense(x.shape[-1])(jnp.cumsum(x, axis=1) / jnp.arange(1, x.shape[1] + 1)[:, None].astype(x.dtype))


class WidenedLayer(nn.Module):
    """Broken: float32 out of bfloat16."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return Widened()(x)


class Shortened(nn.Module):
    """Broken: loses a token."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return x[:, 1:]


def broken(layer: nn.Module, causal: bool = True) -> set[str]:
    return {law for law, verdict in verdicts(layer, causal).items() if verdict != "holds"}


@pytest.mark.parametrize("layer", [Attention(4, causal=True), ShortConvolution()])
def test_a_sound_layer_obeys(layer: nn.Module) -> None:
    assert len(verdicts(layer)) == 8
    assert not broken(layer)


def test_what_is_not_causal_need_not_be() -> None:
    assert broken(Pooling()) == {"no output depends on a later token"}
    assert not broken(Pooling(), causal=False)


@pytest.mark.parametrize(
    ("layer", "law"),
    [
        (RunningMean(), "examples packed into one row do not mix"),
        (WidenedLayer(), "float32 stays float32, bfloat16 stays bfloat16"),
        (Shortened(), "(b, t, d) stays (b, t, d)"),
        (Unused(), "every parameter has a finite gradient that is not zero"),
        (Infinite(), "every parameter has a finite gradient that is not zero"),
    ],
)
def test_a_broken_layer_is_told_what_it_breaks(layer: nn.Module, law: str) -> None:
    assert law in broken(layer)
