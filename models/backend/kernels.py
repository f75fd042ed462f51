"""Attention by fused kernels: softmax(q k^T) v without the weights in memory."""

import math
from collections.abc import Callable
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu import splash_attention as pallas
from jax.sharding import AxisType, PartitionSpec

from models.contracts import Tree

Result = TypeVar("Result")

SAVED = "context"  # the name by which remat policies save attention's output
LANES = 128  # the TPU's kernel takes lengths that are multiples of it
BLOCK = 512  # tokens of a block, if the length allows
SHORT = 1024  # most sources of a row that one backward kernel takes whole
NOBODY = -1  # the segment of padding


def attend_splash(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segments: tuple[jax.Array, jax.Array] | None,
    causal: bool = False,
    window: int | None = None,
    cap: float | None = None,
    interpret: bool = False,
) -> jax.Array:
    """softmax(z) v with z = q k^T, or cap tanh(q k^T / cap), by splash attention, a Pallas kernel for TPU.

    query (b, h, t, k), key (b, g, s, k), value (b, g, s, v) -> (b, h, t, v).

    The sum is over the visible j: `causal` j <= i, `window` |i - j| < window, and of the query's segment if `segments`
    has those of the queries (b, t) and sources (b, s).  Blocks that nobody sees are left out.  Queries are scaled by
    the caller.  A token that sees nothing gets something finite, which `attend` replaces by zeros.  A mesh in the
    context splits the rows of the batch, over all its axes.  Reverse-mode gradients of first order only.
    """
    (b, _, t, _), s = query.shape, key.shape[2]
    window = None if window is None or window >= max(t, s) else window
    # a causal row ends with its padding, which no token of its own sees
    if segments is None and s % LANES and not causal:
        segments = jnp.zeros((b, t), jnp.int32), jnp.zeros((b, s), jnp.int32)
    query, key, value = (_pad_time(part, 2) for part in (query, key, value))
    if segments is not None:
        segments = _pad_time(segments[0], 1, NOBODY), _pad_time(segments[1], 1, NOBODY)
    shape, sizes = (
        (query.shape[2], key.shape[2]),
        block_sizes(query.shape[2], key.shape[2], max(query.shape[3], value.shape[3]), window is None),
    )
    mask = pallas.CausalMask(shape) if causal else pallas.FullMask(shape)
    if window is not None:
        mask = pallas.LocalMask(shape, (window - 1, 0 if causal else window - 1), 0)

    def rows(
        query: jax.Array, key: jax.Array, value: jax.Array, segments: tuple[jax.Array, jax.Array] | None
    ) -> jax.Array:
        kernel = pallas.make_splash_mha_single_device(
            pallas.MultiHeadMask([mask]),  # of every head
            block_sizes=sizes,
            attn_logits_soft_cap=cap,
            residual_checkpoint_name=SAVED,
            interpret=interpret,
        )
        with jax.named_scope(name_runs(shape, sizes, causal, window)):
            return jax.vmap(cast(Callable[..., jax.Array], kernel))(
                query, key, value, None if segments is None else pallas.SegmentIds(*segments)
            )

    return by_rows(rows, b)(query, key, value, segments)[:, :, :t]


def name_runs(shape: tuple[int, int], sizes: pallas.BlockSizes, causal: bool, window: int | None) -> str:
    """The share of its grid that each kernel runs for the mask, as a scope name: "runs:fwd=0.75,dkv=1".

    The FLOP counter reads it.  A grid is as wide as the most blocks that a row of it sees (for "dkv", a column), or
    whole if one kernel does all the backward work.
    """
    blocks = {"fwd": (sizes.block_q, sizes.block_kv), "dq": (sizes.block_q_dq, sizes.block_kv_dq)}
    blocks |= {"dkv": (sizes.block_q_dkv, sizes.block_kv_dkv)}
    parts: list[str] = []
    for phase, (q, kv) in blocks.items():
        if q is None or kv is None:
            continue
        # sources are from behind + 1 - kv to behind + q - 1 tokens back
        behind = np.arange(0, shape[0], q)[:, None] - np.arange(0, shape[1], kv)
        seen = (behind + q > 0) if causal else np.ones(behind.shape, bool)
        if window is not None:
            seen &= (behind - kv < window - 1) & (causal | (behind + q > 1 - window))
        run = seen.sum(0 if phase == "dkv" else 1)
        width = seen.shape[0 if phase == "dkv" else 1] if sizes.use_fused_bwd_kernel else run.max()
        parts.append(f"{phase}={run.sum() / (len(run) * width):.6g}")
    return "runs:" + ",".join(parts)


def _pad_time(x: jax.Array, axis: int, fill: int = 0) -> jax.Array:
    """Pads an axis of time to a multiple of LANES."""
    return jnp.pad(
        x, [(0, -size % LANES if index == axis else 0) for index, size in enumerate(x.shape)], constant_values=fill
    )


def block_sizes(t: int, s: int, width: int, everywhere: bool) -> pallas.BlockSizes:
    """The sizes of the kernels' blocks: the largest multiples of LANES up to BLOCK that divide the lengths.

    One backward kernel for all gradients computes scores once instead of twice, but visits every block, hidden or not,
    and writes the queries' gradient once for each block of sources, to be added: it serves short rows without a window,
    their sources one block.  Time lies along vectors, so that narrow heads fill them and rotations, which part a head,
    need no exchange within one.
    """
    queries, sources = (max(size for size in range(LANES, BLOCK + 1, LANES) if length % size == 0) for length in (t, s))
    single = everywhere and s <= SHORT and width <= LANES
    layout = pallas.QKVLayout.SEQ_MINOR
    return pallas.BlockSizes(
        block_q=queries,
        block_kv=sources,
        block_q_dkv=queries,
        block_kv_dkv=s if single else sources,
        block_kv_dkv_compute=sources,
        block_q_dq=None if single else queries,
        block_kv_dq=None if single else sources,
        use_fused_bwd_kernel=single,
        q_layout=layout,
        k_layout=layout,
        v_layout=layout,
    )


def by_rows(compute: Callable[..., Result], b: int) -> Callable[..., Result]:
    """The function on each device's share of the rows, as a kernel needs; on all rows if devices do not divide them."""
    axes, spec = _shares(b)
    return (
        jax.shard_map(compute, in_specs=spec, out_specs=spec, axis_names=set(axes), check_vma=False)
        if axes
        else compute
    )


def sum_by_rows(
    compute: Callable[[Tree, Tree], tuple[Tree, Tree]], b: int
) -> Callable[[Tree, Tree], tuple[Tree, Tree]]:
    """(whole, rows) -> (sums, rows) as `by_rows`, with `whole` replicated and the sums added over devices, once."""
    axes, spec = _shares(b)
    if not axes:
        return compute

    def add(whole: Tree, rows: Tree) -> tuple[Tree, Tree]:
        sums, outputs = compute(whole, rows)
        return (jax.lax.psum(sums, axes) if len(spec) else sums), outputs

    whole = PartitionSpec()
    return jax.shard_map(add, in_specs=(whole, spec), out_specs=(whole, spec), axis_names=set(axes), check_vma=False)


def _shares(b: int) -> tuple[tuple[str, ...], PartitionSpec]:
    """The mesh axes left to split, none on one device or inside a pmap or shard_map, and the spec of rows over them."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind != AxisType.Manual)
    divide = b % math.prod(mesh.shape[name] for name in axes) == 0
    return axes, PartitionSpec(axes) if divide else PartitionSpec()


def attend_fused(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    visible: jax.Array | None,
    causal: bool,
    window: int | None,
    gpu: bool,
) -> jax.Array:
    """softmax(q k^T) v by `jax.nn.dot_product_attention`, on GPU by cuDNN's kernel.

    query (b, h, t, k), key (b, g, s, k), value (b, g, s, v) -> (b, h, t, v), over the j that are `visible` (1 or b, 1,
    t, s), and if `causal` not later and nearer than `window`.  Queries are scaled by the caller.
    """
    width = value.shape[-1]
    # one width, a multiple of 8 for cuDNN: zeros add nothing to scores
    widest = -(-max(query.shape[-1], width) // 8) * 8
    parts = (
        jnp.pad(part, ((0, 0), (0, 0), (0, 0), (0, widest - part.shape[-1]))).swapaxes(1, 2)
        for part in (query, key, value)
    )
    mixed = jax.nn.dot_product_attention(
        *parts,
        mask=visible,
        scale=1.0,
        is_causal=causal,
        local_window_size=(window - 1, 0) if window is not None and causal else None,
        implementation="cudnn" if gpu else "xla",
    )
    return checkpoint_name(mixed.swapaxes(1, 2)[..., :width], SAVED)
