"""Kernels for TPU compile, forward and backward, and a remat policy that keeps the context runs each once."""

import collections
import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from models import (
    Attention,
    Context,
    DifferentialAttention,
    GatedDeltaNet,
    KimiDeltaAttention,
    LatentAttention,
    LinearAttention,
    RoPE,
    Softmax,
)
from models.backend.kernels import SAVED
from models.backend.platform import compile_for

ROWS, LENGTH, WIDTH, LAYERS = 2, 1024, 256, 2
NAMED = jax.checkpoint_policies.save_only_these_names(SAVED)
FORMS: dict[str, tuple[Any, bool]] = {  # and whether rows have segments
    "64 wide": (Attention(4, causal=True, position=RoPE()), True),
    "128 wide, grouped, window, cap": (Attention(2, kv_heads=1, causal=True, window=200, weigh=Softmax(30.0)), True),
    "window both ways": (Attention(2, window=200), False),
    "chunk": (Attention(2, chunk=300), False),
    "20 wide": (Attention(2, head_width=20), True),
    "differential": (DifferentialAttention(2, causal=True), True),
    "latent": (LatentAttention(4, causal=True), False),
}
RECURRENT = {
    "delta, a decay a head": GatedDeltaNet(2),
    "delta, decays a channel": KimiDeltaAttention(4),
    "decayed": LinearAttention(1),
}


def kernels(
    layer: Any, segmented: bool, device: SingleDeviceSharding, policy: Any, length: int = LENGTH
) -> dict[str, int]:
    """How often a compiled gradient of scanned layers in bfloat16 calls each kernel: "fwd", "dq" and "dkv", or
    "forward" and "backward".
    """

    def array(*shape: int, dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=device)

    def loss(params: Any, x: jax.Array, segments: jax.Array | None) -> jax.Array:
        def applied(x: jax.Array, params: Any) -> tuple[jax.Array, None]:
            return x + jnp.asarray(layer.apply(params, x, Context(segments=segments))), None

        return (
            jax.lax.scan(jax.checkpoint(applied, policy=policy, prevent_cse=False), x, params)[0]
            .astype(jnp.float32)
            .var()
        )

    x, segments = array(ROWS, length, WIDTH), array(ROWS, length, dtype=jnp.int32) if segmented else None
    params = jax.eval_shape(layer.init, jax.random.key(0), x, Context())
    params = jax.tree.map(lambda leaf: array(LAYERS, *leaf.shape), params)
    with compile_for("tpu"):
        program = jax.jit(jax.grad(loss)).lower(params, x, segments).compile().as_text()
    return collections.Counter(
        re.findall(
            r"%\S*(?:splash_mha|delta|decayed)_(fwd|dq|dkv|forward|backward)\S* = [^\n]*tpu_custom_call", program or ""
        )
    )


@pytest.mark.parametrize("name", FORMS)
def test_every_form_runs_each_kernel_once_in_the_body_of_each_loop(name: str, device: SingleDeviceSharding) -> None:
    layer, segmented = FORMS[name]
    called = kernels(layer, segmented, device, NAMED)
    assert called.pop("dq", 1) == 1  # one backward kernel, or two
    assert called == {"fwd": 1, "dkv": 1}


@pytest.mark.parametrize("name", RECURRENT)
def test_every_recurrence_runs_each_kernel_once_in_the_body_of_each_loop(
    name: str, device: SingleDeviceSharding
) -> None:
    assert kernels(RECURRENT[name], True, device, NAMED) == {"forward": 1, "backward": 1}


def test_a_policy_that_keeps_nothing_runs_the_forward_kernel_again(device: SingleDeviceSharding) -> None:
    assert kernels(Attention(4, causal=True), False, device, None)["fwd"] == 2


def test_short_rows_have_no_kernel(device: SingleDeviceSharding) -> None:
    assert kernels(Attention(4, causal=True), False, device, NAMED, length=128) == {}
