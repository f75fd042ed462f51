"""Mixtures of experts: each token is routed to few of many feedforwards, and only these cost FLOPs."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.activation import silu
from models.context import Context
from models.contracts import Activation, Norm, Router
from models.feedforward import GLU
from models.norm import LayerNorm
from models.roles import UNDECAYED, Roles
from models.routing import Loads, SoftmaxRouter, highest, loads, real, report
from models.structure import require_positive

KERNEL = nn.initializers.lecun_normal(in_axis=-2, out_axis=-1, batch_axis=(0,))
HALVES = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=-1, out_axis=-2, batch_axis=(0, 1))  # within width^-1/2
Kernels = tuple[jax.Array, jax.Array, jax.Array]  # gate and up (e, d, f) and down (e, f, d) of all experts


class Experts(nn.Module):
    """sum over the `active` experts that the router chooses of weight * GLU_e(x), plus `shared` experts for all tokens.

    (b, t, d) -> (b, t, d).  arXiv:1701.06538; experts many and small, some of them shared: DeepSeekMoE, arXiv:2401.06066.
    No token is dropped (arXiv:2211.15841): tokens are sorted by expert.  `dispatch` "ragged" multiplies the sorted groups by
    `jax.lax.ragged_dot`; "blocks" takes one expert after the other, its group in blocks of the size that pads it least; "auto" is blocks
    on CPU and ragged elsewhere.  Both give the same.
    Sows its load, of which a step logs load_entropy and largest_load, both 1 for equal loads; padding counts in neither.
    """

    experts: int = 8
    active: int = 2
    expand: float = 4 / 3  # hidden width of one expert over d
    shared: int = 0
    activation: Activation = silu
    router: Router = SoftmaxRouter()
    dispatch: Literal["auto", "ragged", "blocks"] = "auto"

    def __post_init__(self) -> None:
        require_positive(self, "experts", "active", "expand")
        if self.active > self.experts:
            raise ValueError(f"Experts has {self.active} active of {self.experts} experts; a token can pass through each once.")
        if self.dispatch not in ("auto", "ragged", "blocks"):
            raise ValueError(f"Experts.dispatch is {self.dispatch!r}; give 'auto', 'ragged' or 'blocks'.")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        tokens, e = x.reshape(-1, x.shape[-1]), self.experts
        weights, chosen = self.router(x, ctx.segments, e, self.active)
        report(self, "metrics", "load", Loads(loads(chosen, real(x, ctx.segments), e)))
        weights, chosen = weights.reshape(-1, self.active), chosen.reshape(-1, self.active)
        hidden = round(self.expand * x.shape[-1])
        kernels, sizes = glu_kernels(self, e, x.shape[-1], hidden), block_sizes(chosen.size / e)
        run = functools.partial(apply_experts, tokens, weights, chosen, kernels, self.activation)
        ways = {"ragged": functools.partial(run, None), "blocks": functools.partial(run, sizes)}
        if self.dispatch == "auto":  # by the platform that the program is for, which need not be the one that compiles it
            y = jax.lax.platform_dependent(cpu=ways["blocks"], default=ways["ragged"]).reshape(x.shape)
        else:
            y = ways[self.dispatch]().reshape(x.shape)
        if self.shared:
            y = y + GLU(self.shared * hidden / x.shape[-1], self.activation, name="shared")(x, ctx)
        return y


class ExpertChoice(nn.Module):
    """Experts choose tokens: y_i = sum over the experts e that chose token i of s_ie GLU_e(x_i), plus `shared` experts for all tokens.

    s = softmax over experts of x W; each expert takes the m * capacity / experts tokens of highest score, rounded down, of an example
    of m tokens, so all loads are equal.  (b, t, d) -> (b, t, d).  arXiv:2202.09368.
    The paper chooses among the tokens of a whole batch.  Choosing compares with later tokens: not causal, and it cannot decode.
    """

    experts: int = 8
    capacity: float = 2.0  # how many experts choose a token, on average
    expand: float = 4 / 3
    shared: int = 1
    activation: Activation = silu
    causal: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_positive(self, "experts", "capacity", "expand")
        if self.capacity > self.experts:
            raise ValueError(f"ExpertChoice.capacity is {self.capacity} of {self.experts} experts; a token can be chosen by each once.")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        refuse_decoding(self, ctx)
        b, _, d = x.shape
        hidden = round(self.expand * d)
        gate, up, down = glu_kernels(self, self.experts, d, hidden)
        logits = nn.Dense(self.experts, use_bias=False, dtype=jnp.float32, name="router")(x.reshape(-1, d)).reshape(b, -1, self.experts)
        scores = jax.nn.softmax(logits, axis=-1).swapaxes(1, 2)
        index, valid = highest(scores, ctx.segments, self.capacity / self.experts)
        rows = jax.vmap(lambda row, places: row[places])(x, index)  # (b, e, k, d)
        inner = self.activation(jnp.einsum("bekd,edf->bekf", rows, gate)) * jnp.einsum("bekd,edf->bekf", rows, up)
        weights = jnp.where(valid, jnp.take_along_axis(scores, index, axis=-1), 0).astype(x.dtype)
        outputs = jnp.einsum("bekf,efd,bek->bekd", inner, down, weights)
        y = jax.vmap(lambda places, rows: jnp.zeros_like(x[0]).at[places].add(rows))(index, outputs)
        if self.shared:
            y = y + GLU(self.shared * hidden / d, self.activation, name="shared")(x, ctx)
        return y


class SoftMoE(nn.Module):
    """Y = C GLU(D^T X): each expert reads `slots` weighted means of an example's tokens; a token reads a mean of all slots.

    D and C are softmaxes of L = scale * unit(X) unit(P) over tokens and over slots.  (b, t, d) -> (b, t, d).
    arXiv:2308.00951.  Each example of a packed row has its slots, so cost grows with the number of examples: that of
    ctx.starts if it is set, otherwise `examples`; tokens of further examples get NaN, since traced code cannot raise.
    Slots see later tokens: not causal, and it cannot decode.
    """

    experts: int = 8
    slots: int = 2
    expand: float = 4 / 3
    examples: int = 4
    activation: Activation = silu
    causal: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_positive(self, "experts", "slots", "expand", "examples")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        refuse_decoding(self, ctx)
        (b, t, d), e, p = x.shape, self.experts, self.slots
        gate, up, down = glu_kernels(self, e, d, round(self.expand * d))
        keys = self.param("keys", nn.initializers.normal(d**-0.5), (d, e * p)).astype(jnp.float32)
        scale = self.param("scale", nn.initializers.ones, ()).astype(jnp.float32)
        wide = x.astype(jnp.float32)
        unit = wide * jax.lax.rsqrt(jnp.square(wide).sum(-1, keepdims=True) + 1e-6)
        logits = unit @ (scale * keys * jax.lax.rsqrt(jnp.square(keys).sum(0) + 1e-6))
        members = jnp.ones((b, t, 1), bool)
        if ctx.segments is not None:
            most = self.examples if ctx.starts is None else ctx.starts.shape[1]
            members = ctx.segments[..., None] == jnp.arange(most + 1)
        pull = jnp.where(members[..., None], logits[:, :, None], -1e30)  # (b, t, examples, e * p)
        dispatch = jnp.where(members[..., None], jax.nn.softmax(pull, axis=1), 0).astype(x.dtype)
        rows = jnp.einsum("btns,btd->bnsd", dispatch, x).reshape(b, -1, e, p, d)
        inner = self.activation(jnp.einsum("bnepd,edf->bnepf", rows, gate)) * jnp.einsum("bnepd,edf->bnepf", rows, up)
        outputs = jnp.einsum("bnepf,efd->bnepd", inner, down).reshape(b, -1, e * p, d)
        combine = (jax.nn.softmax(logits, axis=-1)[:, :, None] * members[..., None]).astype(x.dtype)
        y = jnp.einsum("btns,bnsd->btd", combine, outputs)
        return y if ctx.segments is None else jnp.where(ctx.segments[..., None] < members.shape[-1], y, jnp.nan)


class ProductKeyMemory(nn.Module):
    """sum_i softmax_i(q . k_i) v_i over the `active` best of keys^2 values: k_(i, j) = [a_i, b_j], so two searches of `keys` find them.

    Each of `heads` has its own query and halves of keys (keys, key_width / 2), and all share the values.  (b, t, d) -> (b, t, d).
    arXiv:1907.05242, with `norm` on the halves of the queries where the paper has batch normalisation of whole ones.  Defaults and first
    values are those released in facebookresearch/XLM, which has 512 keys where this has the 128 of the paper's smallest memory: halves
    uniform within 1 / sqrt(their width), values normal with deviation 1 / sqrt(d).  The paper trains the values at a rate of their own,
    1e-3 throughout, without weight decay.
    """

    roles: ClassVar[Roles] = {"values": UNDECAYED}  # a step reads few of them, and decay would shrink all
    keys: int = 128
    heads: int = 4
    active: int = 32
    key_width: int = 256
    norm: Norm = LayerNorm()

    def __post_init__(self) -> None:
        require_positive(self, "keys", "heads", "active", "key_width")
        if self.key_width % 2 or self.active > self.keys:
            raise ValueError(
                f"ProductKeyMemory has key_width {self.key_width}, which must be even, and {self.active} active of {self.keys} keys."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        d, h, k, half = x.shape[-1], self.heads, self.active, self.key_width // 2
        query = nn.Dense(h * 2 * half, name="query")(x.reshape(-1, d)).reshape(-1, h, 2, half)
        query = self.norm(query)
        keys = self.param("halves", HALVES, (h, 2, self.keys, half))
        values = self.param("values", nn.initializers.normal(d**-0.5), (self.keys**2, d))
        scores = jnp.einsum("nhcw,hckw->nhck", query.astype(jnp.float32), keys.astype(jnp.float32))
        best, indices = jax.lax.top_k(scores, k)
        pairs = (best[:, :, 0, :, None] + best[:, :, 1, None, :]).reshape(-1, h, k * k)
        index = (indices[:, :, 0, :, None] * self.keys + indices[:, :, 1, None, :]).reshape(-1, h, k * k)
        top, chosen = jax.lax.top_k(pairs, k)
        weights = jax.nn.softmax(top, axis=-1).astype(x.dtype)
        return jnp.einsum("nhk,nhkd->nd", weights, values[jnp.take_along_axis(index, chosen, axis=-1)].astype(x.dtype)).reshape(x.shape)


def glu_kernels(module: nn.Module, experts: int, d: int, hidden: int) -> Kernels:
    """The parameters gate and up (e, d, f) and down (e, f, d) of as many gated units, in a module."""
    gate, up = (module.param(name, KERNEL, (experts, d, hidden)) for name in ("gate", "up"))
    return gate, up, module.param("down", KERNEL, (experts, hidden, d))


def apply_experts(
    tokens: jax.Array, weights: jax.Array, chosen: jax.Array, kernels: Kernels, activation: Activation, sizes: tuple[int, ...] | None
) -> jax.Array:
    """sum_k weights_nk GLU_{chosen_nk}(tokens_n): (n, d), (n, k), (n, k) -> (n, d).  `sizes`: rows a block may have; None for ragged."""
    k, numbers = chosen.shape[1], chosen.reshape(-1)
    order, counts = jnp.argsort(numbers), jnp.bincount(numbers, length=len(kernels[0]))
    if sizes is not None:
        return apply_in_blocks(activation, sizes, tokens, weights, kernels, order, counts)
    gate, up, down = (kernel.astype(tokens.dtype) for kernel in kernels)
    rows = tokens[order // k]
    inner = activation(multiply_ragged(rows, gate, counts)) * multiply_ragged(rows, up, counts)
    return sum_choices(multiply_ragged(inner, down, counts), invert(order), weights)


@jax.custom_vjp
def multiply_ragged(rows: jax.Array, kernel: jax.Array, counts: jax.Array) -> jax.Array:
    """Rows sorted by expert, as many of each as `counts` says, times their expert's kernel: `jax.lax.ragged_dot`."""
    return jax.lax.ragged_dot(rows, kernel, counts)


@jax.custom_batching.sequential_vmap
def _ragged_back(rows: jax.Array, kernel: jax.Array, counts: jax.Array, outer: jax.Array) -> tuple[jax.Array, ...]:
    """The derivative of `multiply_ragged`, sequential under vmap: jax has no batching rule for it."""
    of_rows = jax.linear_transpose(lambda rows: jax.lax.ragged_dot(rows, kernel, counts), rows)
    of_kernel = jax.linear_transpose(lambda kernel: jax.lax.ragged_dot(rows, kernel, counts), kernel)
    return *of_rows(outer), *of_kernel(outer)


multiply_ragged.defvjp(lambda *inputs: (multiply_ragged(*inputs), inputs), lambda inputs, outer: (*_ragged_back(*inputs, outer), None))


def sum_choices(rows: jax.Array, places: jax.Array, weights: jax.Array) -> jax.Array:
    """sum_k weights_nk rows[places_nk]: (m, d), (n * k,) and (n, k) -> (n, d)."""
    return (rows[places].reshape(*weights.shape, -1) * weights[..., None]).sum(1).astype(rows.dtype)


def invert(order: jax.Array) -> jax.Array:
    """The inverse permutation: (m,) -> (m,)."""
    return jnp.zeros_like(order).at[order].set(jnp.arange(len(order), dtype=order.dtype), unique_indices=True)


def at(rows: jax.Array, places: jax.Array) -> jax.Array:
    """Rows at these indices, zeros for indices out of range."""
    return rows.at[places].get(mode="fill", fill_value=0)


def slice_at(rows: jax.Array, begin: jax.Array, size: int) -> jax.Array:
    """`size` rows from `begin` on."""
    return jax.lax.dynamic_slice_in_dim(rows, begin, size)


def join(gate: jax.Array, up: jax.Array) -> jax.Array:
    """The kernels of gate and up side by side, for one product: (d, f) twice -> (d, 2 f)."""
    return jnp.concatenate([gate, up], -1)


def apply_gate(activation: Activation, entered: jax.Array) -> jax.Array:
    """activation(gates) * ups, of both side by side: (..., 2 f) -> (..., f)."""
    gates, ups = jnp.split(entered, 2, -1)
    return activation(gates) * ups


def put_at(buffers: tuple[jax.Array, ...], begin: jax.Array, values: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Writes values into the rows of the buffers from `begin` on."""
    return tuple(jax.lax.dynamic_update_slice_in_dim(*pair, begin, 0) for pair in zip(buffers, values, strict=True))


def block_sizes(mean: float) -> tuple[int, ...]:
    """Candidate block sizes for experts with `mean` rows each: fractions of min(mean, 512) from 1/4 to 3/2, ascending."""
    return tuple(sorted({max(1, round(min(mean, 512) * part)) for part in (1 / 4, 1 / 2, 3 / 4, 7 / 8, 1, 9 / 8, 5 / 4, 3 / 2)}))


def in_blocks(block: Callable[..., Any], sizes: tuple[int, ...], count: jax.Array, state: Any) -> Any:
    """state = block(state, first row, size) over blocks that cover `count` rows, all of the size that leaves fewest rows empty."""
    trips = jnp.stack([-(-count // size) for size in sizes])
    choice = len(sizes) - 1 - (trips * jnp.array(sizes))[::-1].argmin()  # the largest of equal ones
    for index, size in enumerate(sizes):  # a loop of no trips costs nothing; a branch would copy the state
        state = jax.lax.fori_loop(
            0, jnp.where(choice == index, trips[index], 0), lambda trip, state, size=size: block(state, trip * size, size), state
        )
    return state


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def apply_in_blocks(
    activation: Activation,
    sizes: tuple[int, ...],
    tokens: jax.Array,
    weights: jax.Array,
    kernels: Kernels,
    order: jax.Array,
    counts: jax.Array,
) -> jax.Array:
    """`apply_experts` one expert at a time, each over its sorted choices in blocks, mostly one: short matmuls are slow.

    order (n * k,): the choices n * k + i, sorted by expert.  counts (e,): choices of each expert.  An expert's last block
    may extend into the rows of the next experts, which overwrite it later.
    """
    return _apply_in_blocks(activation, sizes, tokens, weights, kernels, order, counts)[0]


def _apply_in_blocks(
    activation: Activation,
    sizes: tuple[int, ...],
    tokens: jax.Array,
    weights: jax.Array,
    kernels: Kernels,
    order: jax.Array,
    counts: jax.Array,
) -> tuple[jax.Array, Any]:
    (n, k), d, f = weights.shape, tokens.shape[-1], kernels[0].shape[-1]
    sources = jnp.pad(order, (0, sizes[-1]), constant_values=n * k)

    def expert(buffers: tuple[jax.Array, ...], inputs: tuple[Any, ...]) -> tuple[tuple[jax.Array, ...], None]:
        (gate, up, down), begin, count = inputs
        enter, down = join(gate, up).astype(tokens.dtype), down.astype(tokens.dtype)

        def block(buffers: tuple[jax.Array, ...], first: jax.Array, size: int) -> tuple[jax.Array, ...]:
            entered = at(tokens, slice_at(sources, begin + first, size) // k) @ enter
            return put_at(buffers, begin + first, (entered, apply_gate(activation, entered) @ down))

        return in_blocks(block, sizes, count, buffers), None

    buffers = tuple(jnp.zeros((n * k + sizes[-1], width), tokens.dtype) for width in (2 * f, d))
    (entered, rows), _ = jax.lax.scan(expert, buffers, (kernels, jnp.cumsum(counts) - counts, counts))
    y = sum_choices(rows, invert(order), weights)
    return y, (tokens, weights, kernels, order, counts, entered)


def _backward_in_blocks(
    activation: Activation, sizes: tuple[int, ...], kept: Any, outer: jax.Array
) -> tuple[jax.Array | Kernels | None, ...]:
    tokens, weights, kernels, order, counts, entered = kept
    (n, k), flat = weights.shape, weights.reshape(-1)
    sources = jnp.pad(order, (0, sizes[-1]), constant_values=n * k)

    def expert(buffers: tuple[jax.Array, ...], inputs: tuple[Any, ...]) -> tuple[tuple[jax.Array, ...], Kernels]:
        (gate, up, down), begin, count = inputs
        both = (join(gate, up), down)
        enter, leave = (kernel.astype(tokens.dtype) for kernel in both)

        def block(state: tuple[Any, Any], first: jax.Array, size: int) -> tuple[Any, Any]:
            buffers, totals = state
            source = jnp.where(first + jnp.arange(size) < count, slice_at(sources, begin + first, size), n * k)
            rows, outers, weight = at(tokens, source // k), at(outer, source // k), at(flat, source)[:, None]
            hidden, pull = jax.vjp(functools.partial(apply_gate, activation), slice_at(entered, begin + first, size))
            back = outers @ leave.T
            (of_entered,) = pull((back * weight).astype(hidden.dtype))
            pairs = ((rows, of_entered), ((hidden * weight).astype(hidden.dtype), outers))
            totals = tuple(
                total + jnp.matmul(left.T, right, preferred_element_type=total.dtype)
                for total, (left, right) in zip(totals, pairs, strict=True)
            )
            of_weights = (back * hidden).sum(-1, dtype=weights.dtype)
            return put_at(buffers, begin + first, (of_entered @ enter.T, of_weights)), totals

        buffers, (of_enter, of_down) = in_blocks(block, sizes, count, (buffers, jax.tree.map(jnp.zeros_like, both)))
        of_gate, of_up = jnp.split(of_enter, 2, -1)
        return buffers, (of_gate, of_up, of_down)

    buffers = (jnp.zeros((n * k + sizes[-1], tokens.shape[-1]), tokens.dtype), jnp.zeros(n * k + sizes[-1], weights.dtype))
    (of_rows, of_weights), totals = jax.lax.scan(expert, buffers, (kernels, jnp.cumsum(counts) - counts, counts))
    places = invert(order)
    of_tokens = sum_choices(of_rows, places, jnp.ones_like(weights))
    return of_tokens, of_weights[places].reshape(weights.shape), totals, None, None


apply_in_blocks.defvjp(_apply_in_blocks, _backward_in_blocks)


def refuse_decoding(module: nn.Module, ctx: Context) -> None:
    """Raises ValueError while decoding, for a layer that sees later tokens."""
    if ctx.decoding is not None:
        raise ValueError(f"{type(module).__name__} compares a token with later ones and cannot decode one token after the other.")
