"""Laws of the kernels of recurrences: values, gradients and states of the chunked form in XLA, chosen by platform and
call.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import (
    RWKV7,
    Context,
    DeltaNet,
    GatedDeltaNet,
    GatedLinearAttention,
    KimiDeltaAttention,
    LinearAttention,
    Mamba2,
    Retention,
)
from models.backend.implementation import Recurrent, choose_recurrence
from models.backend.platform import compile_for
from models.recurrence import kernel
from models.recurrence.chunked import State
from tests.laws.components import normal, parameters
from tests.laws.kernels import NAMED, equations, gradient, kernel_calls, segments
from tests.laws.recurrences import (
    PACKED,
    B,
    H,
    K,
    V,
    core,
    inputs,
    law_chunks_are_the_recurrence,
    law_strong_decays_of_another_segment_do_no_harm,
)
from train.parallel import Mesh

FORMS = ["decayed head", "decayed channel", "delta head", "delta channel"]
LONG = 18  # tokens: four chunks of four and a piece, three blocks of two chunks


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that short rows have several."""
    monkeypatch.setattr(kernel, "TOGETHER", 2)


def by(implementation: Recurrent) -> Callable[[str], Any]:
    """A core by one implementation."""
    return lambda form: functools.partial(core(form), implementation=implementation)


@pytest.mark.slow
@pytest.mark.represented_by("delta head")
@pytest.mark.parametrize("form", ["decayed head", "delta head"])
def test_strong_decays_of_another_segment_do_no_harm_in_a_kernel(form: str) -> None:
    law_strong_decays_of_another_segment_do_no_harm(by("pallas")(form), form)


def law_chunks_of_a_kernel_are_those_of_xla(run: Any, form: str, packed: bool, dtype: Any = jnp.float32) -> None:
    """Outputs, last state, and the gradients of the inputs and of the first memory."""
    given = tuple(x.astype(dtype) for x in inputs(form, LONG)[:-1]) + inputs(form, LONG)[-1:]
    rows = jnp.cumsum(jax.random.bernoulli(jax.random.key(3), 0.2, (B, LONG)), 1) if packed else None
    before = jnp.zeros((B,), jnp.int32)

    def total(given: Any, memory: jax.Array, run: Any) -> Any:
        y, state = run(*given, rows, State(memory, before), 4)
        return jnp.vdot(normal(7, B, H, LONG, V), y) + jnp.vdot(normal(8, B, H, K, V), state.memory), (y, state)

    def everything(run: Any) -> Any:
        return jax.jit(jax.value_and_grad(functools.partial(total, run=run), (0, 1), has_aux=True))(
            given, normal(9, B, H, K, V)
        )

    for found, expected in zip(jax.tree.leaves(everything(run)), jax.tree.leaves(everything(core(form))), strict=True):
        assert found.dtype == expected.dtype
        bound = 1e-5 if found.dtype == jnp.float32 else 1e-2  # gradients of bfloat16 inputs are rounded to it
        np.testing.assert_allclose(
            found.astype(np.float32), expected.astype(np.float32), atol=bound * (1 + np.abs(expected).max())
        )


@pytest.mark.represented_by("delta channel-packed")
@pytest.mark.parametrize("packed", [False, True], ids=["one", "packed"])
@pytest.mark.parametrize("form", FORMS)
def test_values_gradients_and_states_are_those_of_xla(form: str, packed: bool) -> None:
    law_chunks_of_a_kernel_are_those_of_xla(by("pallas")(form), form, packed)


@pytest.mark.slow
def test_inputs_of_bfloat16_have_gradients_of_bfloat16() -> None:
    law_chunks_of_a_kernel_are_those_of_xla(by("pallas")("delta head"), "delta head", True, jnp.bfloat16)


@pytest.mark.parametrize("form", FORMS)
def test_a_kernel_is_the_recurrence_token_by_token(form: str) -> None:
    law_chunks_are_the_recurrence(by("pallas")(form), form, 4, PACKED)


def unmasked(*given: Any, **options: Any) -> Any:
    """Broken: carries the state from one segment into the next."""
    *inputs, _, state, chunk = given
    return by("pallas")("delta head")(*inputs, None, state, chunk, **options)


def stateless(*given: Any, **options: Any) -> Any:
    """Broken: begins anew with each call."""
    *inputs, rows, state, chunk = given
    return by("pallas")("delta head")(
        *inputs, rows, dataclasses.replace(state, memory=0 * state.memory), chunk, **options
    )


@pytest.mark.slow
@pytest.mark.represented_by("stateless")
@pytest.mark.parametrize("broken", [unmasked, stateless])
def test_a_kernel_that_forgets_what_it_is_told_fails(broken: Any) -> None:
    with pytest.raises(AssertionError):
        law_chunks_of_a_kernel_are_those_of_xla(broken, "delta head", True)


LAYERS = [
    LinearAttention(2),
    Retention(2),
    GatedLinearAttention(2),
    Mamba2(2, state_width=8),
    DeltaNet(2),
    GatedDeltaNet(2),
    KimiDeltaAttention(2),
    RWKV7(2, rank=4, gate_rank=4),
]


@pytest.mark.slow
@pytest.mark.represented_by("GatedDeltaNet")
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_layers_give_the_same_by_both(layer: Any) -> None:
    x, ctx = normal(1, 2, 70, 16), Context(segments=segments("packed", 70))
    params = {"params": parameters(layer)}
    other = dataclasses.replace(layer, implementation="pallas")
    assert calls(other, x) == [
        f"{'decayed' if layer.__class__ in {type(one) for one in LAYERS[:4]} else 'delta'}_forward"
    ]
    found, expected = (jax.jit(lambda params, one=one: one.apply(params, x, ctx))(params) for one in (other, layer))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def calls(layer: Any, x: jax.Array) -> list[str]:
    """The kernels that a layer calls."""
    params = jax.eval_shape(layer.init, jax.random.key(0), x, Context())
    jaxpr = jax.make_jaxpr(lambda params, x: layer.apply(params, x, Context()))(params, x).jaxpr
    return [equation.params["name"] for equation in equations(jaxpr) if equation.primitive.name == "pallas_call"]


def test_the_platform_and_the_call_choose() -> None:
    x = normal(1, 1, 256, 16)
    assert calls(GatedDeltaNet(2), x) == []
    with compile_for("tpu"):
        assert calls(GatedDeltaNet(2), x) == ["delta_forward"]
        assert calls(GatedDeltaNet(2), x[:, :255]) == []
        assert calls(GatedDeltaNet(2, implementation="xla"), x) == []
    with compile_for("gpu"):
        assert calls(GatedDeltaNet(2), x) == []


@pytest.mark.parametrize(
    ("length", "state", "platform", "kind", "found"),
    [
        (1024, 128 * 256, "tpu", "TPU v5 lite", "pallas"),
        (1024, 1024 * 512, "tpu", "TPU v5 lite", "pallas"),
        (1024, 128 * 256, "tpu", "TPU v4", "xla"),
        (1024, 1024 * 512 + 1, "tpu", "TPU v5 lite", "xla"),
        (1, 128 * 256, "tpu", "TPU v5 lite", "xla"),
        (1024, 128 * 256, "gpu", "", "xla"),
    ],
)
def test_what_a_kernel_does_not_fit_is_xla(length: int, state: int, platform: str, kind: str, found: str) -> None:
    assert choose_recurrence(None, length, state, platform, kind) == found
    assert choose_recurrence("xla", length, state, platform, kind) == "xla"


@pytest.mark.parametrize(
    ("asked", "state", "platform", "kind", "sentence"),
    [
        ("triton", 1, "tpu", "", "'triton'; give one of xla, pallas, or None to choose"),
        ("pallas", 1, "gpu", "", "runs on TPU, or interpreted on CPU, not on gpu; give 'xla'"),
        ("pallas", 1, "tpu", "TPU v4", "does not fit the vector memory of a TPU v4; give 'xla'"),
        ("pallas", 600_000, "tpu", "TPU v6 lite", "has 524,288 numbers at most, and these have 600,000; give 'xla'"),
    ],
)
def test_what_cannot_be_is_refused(asked: Any, state: int, platform: str, kind: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        choose_recurrence(asked, 1024, state, platform, kind)


@pytest.mark.slow
@pytest.mark.represented_by("3")
@pytest.mark.parametrize("rows", [8, 3])
def test_a_mesh_of_eight_devices_gives_what_one_gives(rows: int) -> None:
    layer, mesh = GatedDeltaNet(2, implementation="pallas"), Mesh(data=4, fsdp=2)
    batch = {
        "x": np.asarray(normal(3, rows, 70, 16)),
        "segments": np.repeat(np.asarray(segments("padded", 70))[:1], rows, 0),
    }
    params = layer.init(jax.random.key(0), batch["x"], Context())
    compute = mesh.compile_evaluation(lambda params, batch: gradient(layer, params, batch))
    found = compute(mesh.spread(params), mesh.put(batch) if rows == 8 else batch)
    one = jax.jit(lambda params: gradient(layer, params, batch))(params)
    for value, expected in zip(jax.tree.leaves(found), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.represented_by("scanned")
@pytest.mark.parametrize("scan", [False, True], ids=["looped", "scanned"])
def test_a_policy_that_keeps_the_context_runs_each_kernel_once(scan: bool) -> None:
    layer, layers = Retention(2, implementation="pallas"), 1 if scan else 2
    assert kernel_calls(NAMED, scan, False, layer) == 2 * layers  # forward and backward
    assert kernel_calls(None, scan, False, layer) == 3 * layers  # the forward one again
