"""First values of branches are as much smaller as their residual says, in a loop, a scan and tied alike."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import (
    GLU,
    MLP,
    Attention,
    Block,
    DeepNorm,
    EncoderDecoder,
    LogitsHead,
    PostNorm,
    Stack,
    StochasticDepth,
    TokenEmbed,
    Transformer,
    initialised,
)
from models.paths import path_name

BATCH: Any = {"tokens": jnp.ones((1, 4), jnp.int32), "source": jnp.ones((1, 4), jnp.int32)}
KEY = jax.random.key(0)


def ratios(model: Any) -> dict[str, float]:
    """Ratios of the first values to those of `init`, by path; of nonzero parameters."""
    started = jax.jit(lambda: initialised(model, KEY, BATCH)["params"])()
    plain = jax.jit(lambda: model.init(KEY, BATCH)["params"])()
    leaves = zip(jax.tree_util.tree_leaves_with_path(plain), jax.tree.leaves(started), strict=True)
    found = {}
    for (path, leaf), other in leaves:
        np.testing.assert_array_equal(np.asarray(leaf == 0), np.asarray(other == 0))
        if np.any(leaf):
            both = np.asarray(other)[np.asarray(leaf) != 0] / np.asarray(leaf)[np.asarray(leaf) != 0]
            np.testing.assert_allclose(both, both[0], rtol=1e-5)
            found[path_name(path)] = float(both[0])
    return found


def language(residual: Any, feedforward: Any = None, **fields: Any) -> Transformer:
    options = {"parametrization": fields.pop("parametrization", "standard"), "base_width": 8, "base_depth": 4}
    block = Block(Attention(2, causal=True), feedforward or MLP(1.0), residual)
    return Transformer(TokenEmbed(7, 8), Stack(block, 3, prefix=(block,), **fields), LogitsHead(), **options)


BETA = (8 * 4) ** -0.25
FORMS: dict[str, tuple[Any, float]] = {
    "loop": (language(DeepNorm()), BETA),
    "scan": (language(DeepNorm(), scan=True), BETA),
    "tied": (language(DeepNorm(), tied=True, remat="full"), BETA),
    "gated": (language(DeepNorm(), GLU(1.0)), BETA),
    "given": (language(DeepNorm(beta=0.5)), 0.5),
    "within another": (language(StochasticDepth(DeepNorm(), 0.1)), BETA),
    "mup at its base": (language(DeepNorm(), parametrization="mup"), BETA),
}


@pytest.mark.slow
@pytest.mark.represented_by("scan")
@pytest.mark.parametrize("form", FORMS)
def test_values_outputs_and_feedforwards_start_beta_times_as_large(form: str) -> None:
    model, beta = FORMS[form]
    found = ratios(model)
    names = ("query", "key", "value", "out", "up", "down")
    kinds = {name: {value for path, value in found.items() if f"/{name}/kernel" in path} for name in names}
    assert kinds["query"] == kinds["key"] == {1.0}
    for name in ("value", "out", "up", "down"):
        assert list(kinds[name]) == pytest.approx([beta] * len(kinds[name]), rel=1e-5), name
    assert all(value == 1 for path, value in found.items() if "kernel" not in path)


@pytest.mark.slow
@pytest.mark.represented_by("residual0")
@pytest.mark.parametrize("residual", [PostNorm(), StochasticDepth(PostNorm(), 0.1), DeepNorm(beta=1.0)])
def test_other_residuals_leave_first_values_as_they_are(residual: Any) -> None:
    assert set(ratios(language(residual)).values()) == {1.0}


@pytest.mark.slow
def test_both_stacks_of_a_translator_have_their_own() -> None:
    encoder = Stack(Block(Attention(2), MLP(1.0), DeepNorm(beta=0.5)), 1)
    decoder = Stack(Block(Attention(2, causal=True), MLP(1.0), DeepNorm(beta=0.25), cross=Attention(2, cross=True)), 1)
    found = ratios(EncoderDecoder(TokenEmbed(7, 8), encoder, decoder, LogitsHead()))
    assert {value for path, value in found.items() if path.startswith("encoder") and "value" in path} == {0.5}
    assert {value for path, value in found.items() if path.startswith("decoder") and "value" in path} == {0.25}
    assert sum("cross/value" in path for path in found) == 1
