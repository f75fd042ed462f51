"""Operations counted from traced programs, against counts by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas
from jax.experimental.pallas.ops.tpu import splash_attention

from models import Attention, Block, Context, PreNorm, RMSNorm, Stack
from models.backend.kernels import block_sizes, name_runs
from models.backend.platform import compile_for
from train.cost.traced import count_flops, count_kernel_flops

X, W = jnp.ones((8, 16)), jnp.ones((16, 32))


def test_products_count_and_loops_by_their_trips() -> None:
    assert count_flops(lambda x, w: x @ w, X, W) == 2 * 8 * 16 * 32
    assert (
        count_flops(lambda x, w: jax.lax.scan(lambda total, _: (total + (x @ w).sum(), None), 0.0, None, 5), X, W)
        == 5 * 2 * 8 * 16 * 32
    )
    assert (
        count_flops(lambda x, w: jax.lax.cond(x.sum() > 0, lambda: x @ w, lambda: jnp.zeros((8, 32))), X, W)
        == 2 * 8 * 16 * 32
    )


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(("stride", "padding"), [(1, "VALID"), (2, "VALID"), (2, "SAME"), (3, "SAME")])
def test_convolutions_count_what_meets_an_input_forward_and_back(stride: int, padding: str, groups: int) -> None:
    def convolved(x: jax.Array, kernel: jax.Array) -> jax.Array:
        numbers = ("NWC", "WIO", "NWC")
        count = x.shape[-1] // kernel.shape[1]
        return jax.lax.conv_general_dilated(
            x, kernel, (stride,), padding, dimension_numbers=numbers, feature_group_count=count
        )

    x, kernel = jnp.ones((2, 11, 6)), jnp.ones((4, 6 // groups, 12))
    one = jnp.ones_like
    # pairs of an output and a place of the kernel
    met = float(convolved(one(x[:1, :, :1]), one(kernel[:, :1, :1])).sum())
    forward = round(2 * met * 2 * 6 // groups * 12)
    assert count_flops(convolved, x, kernel) == forward
    assert count_flops(jax.value_and_grad(lambda *given: convolved(*given).sum(), (0, 1)), x, kernel) == 3 * forward


def test_of_causal_attention_what_is_seen_is_half_and_its_projections_count_whole() -> None:
    t, d = 32, 16

    def counted(seen: bool, causal: bool) -> int:
        layer, x = Attention(2, causal=causal), jnp.ones((3, t, d))
        params = layer.init(jax.random.key(0), x, Context())
        return count_flops(lambda x: layer.apply(params, x, Context()), x, seen=seen)

    scores, projections = 3 * 2 * 2 * t * t * d, 3 * 4 * 2 * t * d * d
    assert counted(seen=False, causal=True) == counted(seen=True, causal=False) == scores + projections
    assert counted(seen=True, causal=True) == scores // 2 + projections


def test_the_products_inside_a_kernel_are_known_for_every_block_of_its_grid() -> None:
    t, k = 256, 64

    def attended(x: jax.Array) -> jax.Array:
        with compile_for("tpu"):
            return jnp.asarray(Attention(1, causal=True, implementation="splash").apply(params, x, Context()))

    x = jnp.ones((2, t, k))
    params = Attention(1, causal=True).init(jax.random.key(0), x, Context())
    inside = sum(count_kernel_flops(attended, x).values())
    assert inside == 2 * 2 * 2 * t * t * k
    assert count_flops(attended, x) == inside + 2 * 4 * 2 * t * k * k


@pytest.mark.parametrize(("t", "window"), [(1024, None), (2048, None), (4096, 512), (4096, 700)])
def test_blocks_that_attention_s_kernels_leave_out_do_not_count(t: int, window: int | None) -> None:
    k, block, layer = 64, 512, Attention(1, causal=True, window=window)
    behind = np.arange(t)[:, None] - np.arange(t)
    visible = (behind >= 0) & (behind < (window or t))
    blocks = int(visible.reshape(t // block, block, t // block, block).any((1, 3)).sum())
    x = jax.ShapeDtypeStruct((2, t, k), jnp.float32)
    with compile_for("tpu"):
        params = jax.eval_shape(layer.init, jax.random.key(0), x, Context())

        def attended(params: Any, x: jax.Array) -> jax.Array:
            return jnp.asarray(layer.apply(params, x, Context())).sum()

        forward, both = (
            sum(count_kernel_flops(function, params, x).values()) for function in (attended, jax.grad(attended))
        )
    product = 2 * 2 * blocks * block**2 * k
    assert forward == 2 * product
    if t > 1024:  # of the queries' gradient three products, of the sources' four
        assert both - forward == pytest.approx((3 + 4) * product)
    else:  # one kernel of five, which visits every block
        assert both - forward == 5 * 2 * 2 * t * t * k


@pytest.mark.parametrize("window", [None, 1, 129, 512, 513, 2000])
@pytest.mark.parametrize(
    ("t", "s", "causal"), [(384, 384, True), (1024, 1024, True), (3072, 3072, True), (2048, 3072, False)]
)
def test_the_blocks_that_run_are_those_of_the_library_s_masks(t: int, s: int, causal: bool, window: int | None) -> None:
    if window is not None and window >= max(t, s):
        window = None
    sizes = block_sizes(t, s, 64, everywhere=window is None)
    mask = splash_attention.CausalMask((t, s)) if causal else splash_attention.FullMask((t, s))
    if window is not None:
        mask = splash_attention.LocalMask((t, s), (window - 1, 0 if causal else window - 1), 0)
    kernel = splash_attention.make_splash_mha_single_device(splash_attention.MultiHeadMask([mask]), block_sizes=sizes)
    told = dict(pair.split("=") for pair in name_runs((t, s), sizes, causal, window).removeprefix("runs:").split(","))
    infos = {"fwd": kernel.fwd_mask_info, "dq": kernel.dq_mask_info, "dkv": kernel.dkv_mask_info}
    masks = {phase: info.block_mask for phase, info in infos.items() if info is not None}
    real = {phase: 1.0 if blocks is None else float(np.mean(np.asarray(blocks) > 0)) for phase, blocks in masks.items()}
    assert {phase: float(part) for phase, part in told.items()} == pytest.approx(real, rel=1e-5)


@pytest.mark.parametrize("scan", [False, True])
def test_blocks_are_known_in_loops_and_where_they_are_computed_again(scan: bool) -> None:
    block = Block(mixer=Attention(1, causal=True), feedforward=None, residual=PreNorm(RMSNorm()))
    stack, x = Stack(block, repeats=3, scan=scan, remat="full"), jax.ShapeDtypeStruct((2, 1024, 64), jnp.float32)
    with compile_for("tpu"):
        params = jax.eval_shape(lambda x: stack.init(jax.random.key(0), x, Context()), x)
        inside = count_kernel_flops(
            jax.grad(lambda params, x: jnp.asarray(stack.apply(params, x, Context())).sum()), params, x
        )
    one = 2 * 2 * 1024**2 * 64
    assert sorted(inside.values()) == [2 * 0.75 * one, 5 * one]  # of one call


def test_kernels_of_one_name_or_none_are_counted_by_their_shapes_and_calls() -> None:
    def product(x: jax.Array) -> jax.Array:
        def body(left: Any, right: Any, out: Any) -> None:
            out[...] = left[...] @ right[...]

        return pallas.pallas_call(body, out_shape=x)(x, x)

    def twice(x: jax.Array) -> jax.Array:  # of the same shapes, and twice the work
        def body(left: Any, right: Any, out: Any) -> None:
            out[...] = left[...] @ right[...] @ right[...]

        return pallas.pallas_call(body, out_shape=x)(x, x)

    def all_of_them(small: jax.Array, large: jax.Array) -> Any:
        large, _ = jax.lax.scan(lambda x, _: (product(x), None), large, None, 3)
        large = jax.lax.cond(large.sum() > 0, lambda: twice(large), lambda: large)
        return product(small), large

    found = count_kernel_flops(all_of_them, jnp.ones((8, 8)), jnp.ones((16, 16)))
    assert found == {((8, 8),) * 3: 2 * 8**3, ((16, 16),) * 3: (3 * 2 * 16**3 + 4 * 16**3) / 4}
