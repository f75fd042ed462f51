"""Mixtures of experts: each token passes through few of many feedforwards, and cost follows those that it passes through."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.activation import silu
from models.context import Context
from models.contracts import Activation, Norm
from models.feedforward import GLU
from models.norm import LayerNorm
from models.routing import Router, SoftmaxRouter, highest, report_load
from models.structure import require_positive

KERNEL = nn.initializers.lecun_normal(in_axis=-2, out_axis=-1, batch_axis=(0,))
Kernels = tuple[jax.Array, jax.Array, jax.Array]  # gate and up (e, d, f) and down (e, f, d) of all experts


class Experts(nn.Module):
    """sum over the `active` experts that the router chooses of weight * GLU_e(x), plus `shared` experts for all tokens.

    (b, t, d) -> (b, t, d).  arXiv:1701.06538; experts many and small, some of them shared: DeepSeekMoE, arXiv:2401.06066.
    No token is dropped (arXiv:2211.15841): tokens are sorted by expert.  `dispatch` "ragged" multiplies the sorted groups by
    `jax.lax.ragged_dot`; "blocks" pads each group to whole blocks, which pass one after the other, with a quarter of the products for
    padding at most; "auto" is blocks on CPU and ragged elsewhere.  Both give the same.
    Sows the metrics load_entropy and largest_load, both 1 for equal loads; padding counts in neither.
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
        real = jnp.ones(len(tokens), bool) if ctx.segments is None else ctx.segments.reshape(-1) > 0
        weights, chosen = self.router(tokens, real, e, self.active)
        report_load(self, chosen, real, e)
        hidden = round(self.expand * x.shape[-1])
        kernels, size = glu_kernels(self, e, x.shape[-1], hidden), max(1, chosen.size // (4 * e))
        given = functools.partial(dispatched, tokens, weights, chosen, kernels, self.activation)
        ways = {"ragged": functools.partial(given, None), "blocks": functools.partial(given, size)}
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
        given = jnp.einsum("bekf,efd,bek->bekd", inner, down, weights)
        y = jax.vmap(lambda places, rows: jnp.zeros_like(x[0]).at[places].add(rows))(index, given)
        if self.shared:
            y = y + GLU(self.shared * hidden / d, self.activation, name="shared")(x, ctx)
        return y


class SoftMoE(nn.Module):
    """Y = C GLU(D^T X): experts see `slots` weighted means of an example's tokens each, and every token a mean of all that they give.

    D and C are softmaxes of L = scale * unit(X) unit(P) over tokens and over slots.  (b, t, d) -> (b, t, d).  arXiv:2308.00951.
    Each example of a packed row has slots of its own, so cost grows with their number: that of ctx.starts, else `examples`; what
    follows these in a row gets 0.  Slots see later tokens: not causal, and it cannot decode.
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
        own = jnp.ones((b, t, 1), bool)
        if ctx.segments is not None:
            most = self.examples if ctx.starts is None else ctx.starts.shape[1]
            own = ctx.segments[..., None] == jnp.arange(most + 1)
        pull = jnp.where(own[..., None], logits[:, :, None], -1e30)  # (b, t, examples, e * p)
        dispatch = jnp.where(own[..., None], jax.nn.softmax(pull, axis=1), 0).astype(x.dtype)
        rows = jnp.einsum("btns,btd->bnsd", dispatch, x).reshape(b, -1, e, p, d)
        inner = self.activation(jnp.einsum("bnepd,edf->bnepf", rows, gate)) * jnp.einsum("bnepd,edf->bnepf", rows, up)
        given = jnp.einsum("bnepf,efd->bnepd", inner, down).reshape(b, -1, e * p, d)
        combine = (jax.nn.softmax(logits, axis=-1)[:, :, None] * own[..., None]).astype(x.dtype)
        return jnp.einsum("btns,bnsd->btd", combine, given)


class ProductKeyMemory(nn.Module):
    """sum_i softmax_i(q . k_i) v_i over the `active` best of keys^2 values: k_(i, j) = [a_i, b_j], so two searches of `keys` find them.

    Each of `heads` has its own query and halves of keys (keys, key_width / 2), and all share the values.  (b, t, d) -> (b, t, d).
    arXiv:1907.05242, with `norm` on the queries where the paper has batch normalisation.
    """

    keys: int = 128
    heads: int = 4
    active: int = 8
    key_width: int = 128
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
        query = nn.Dense(h * 2 * half, use_bias=False, name="query")(x.reshape(-1, d)).reshape(-1, h, 2, half)
        query = self.norm(query)
        keys = self.param("halves", nn.initializers.normal(half**-0.5), (h, 2, self.keys, half))
        values = self.param("values", nn.initializers.normal(d**-0.5), (self.keys**2, d))
        scores = jnp.einsum("nhcw,hckw->nhck", query.astype(jnp.float32), keys.astype(jnp.float32))
        best, place = jax.lax.top_k(scores, k)
        pairs = (best[:, :, 0, :, None] + best[:, :, 1, None, :]).reshape(-1, h, k * k)
        index = (place[:, :, 0, :, None] * self.keys + place[:, :, 1, None, :]).reshape(-1, h, k * k)
        found, chosen = jax.lax.top_k(pairs, k)
        weights = jax.nn.softmax(found, axis=-1).astype(x.dtype)
        return jnp.einsum("nhk,nhkd->nd", weights, values[jnp.take_along_axis(index, chosen, axis=-1)].astype(x.dtype)).reshape(x.shape)


def glu_kernels(module: nn.Module, experts: int, d: int, hidden: int) -> Kernels:
    """The parameters gate and up (e, d, f) and down (e, f, d) of as many gated units, in a module."""
    gate, up = (module.param(name, KERNEL, (experts, d, hidden)) for name in ("gate", "up"))
    return gate, up, module.param("down", KERNEL, (experts, hidden, d))


def dispatched(
    tokens: jax.Array, weights: jax.Array, chosen: jax.Array, kernels: Kernels, activation: Activation, size: int | None
) -> jax.Array:
    """sum_k weights_nk GLU_{chosen_nk}(tokens_n): (n, d), (n, k), (n, k) -> (n, d).  `size` is the rows of a block, None for ragged."""
    (n, k), experts = chosen.shape, len(kernels[0])
    numbers = chosen.reshape(-1)
    order, counts = jnp.argsort(numbers), jnp.bincount(numbers, length=experts)
    if size is None:
        gate, up, down = (kernel.astype(tokens.dtype) for kernel in kernels)
        rows = tokens[order // k]
        inner = activation(ragged(rows, gate, counts)) * ragged(rows, up, counts)
        return weighted(ragged(inner, down, counts), jnp.argsort(order), weights)
    total = min((n * k + experts * (size - 1)) // size, n * k)  # as many blocks as there can be
    needed = -(-counts // size)
    ends = jnp.cumsum(needed)
    owner = jnp.minimum(jnp.searchsorted(ends, jnp.arange(total), side="right"), experts - 1)
    shift = (ends - needed) * size - (jnp.cumsum(counts) - counts)  # from an expert's place in the sorted rows to that in its blocks
    places = jnp.zeros(n * k, jnp.int32).at[order].set(jnp.arange(n * k) + shift[numbers[order]])
    sources = jnp.full(total * size, n * k).at[places].set(jnp.arange(n * k)).reshape(total, size)
    return blocked(activation, tokens, weights, kernels, owner, sources, places)


@jax.custom_vjp
def ragged(rows: jax.Array, kernel: jax.Array, counts: jax.Array) -> jax.Array:
    """Rows sorted by expert, as many of each as `counts` says, times their expert's kernel: `jax.lax.ragged_dot`."""
    return jax.lax.ragged_dot(rows, kernel, counts)


@jax.custom_batching.sequential_vmap
def _ragged_back(rows: jax.Array, kernel: jax.Array, counts: jax.Array, outer: jax.Array) -> tuple[jax.Array, ...]:
    """The derivative of `ragged`, one after the other where there are many to take: jax has no rule for these at once."""
    return jax.vjp(lambda rows, kernel: jax.lax.ragged_dot(rows, kernel, counts), rows, kernel)[1](outer)


ragged.defvjp(lambda *given: (ragged(*given), given), lambda given, outer: (*_ragged_back(*given, outer), None))


def weighted(rows: jax.Array, places: jax.Array, weights: jax.Array) -> jax.Array:
    """sum_k weights_nk * the row at places_nk: (m, d), (n * k,) and (n, k) -> (n, d)."""
    return (rows[places].reshape(*weights.shape, -1) * weights[..., None]).sum(1).astype(rows.dtype)


def at(rows: jax.Array, places: jax.Array) -> jax.Array:
    """Rows at places, zeros at places behind the last."""
    return rows.at[places].get(mode="fill", fill_value=0)


def unless_empty(block: Callable[..., Any], end: int) -> Callable[..., Any]:
    """The body of a scan over blocks, (state, (owner, sources, ...)), that gives zeros for a block in which no choice stands."""

    def body(state: Any, given: tuple[jax.Array, ...]) -> tuple[Any, Any]:
        shapes = jax.eval_shape(block, state, given)[1]
        nothing = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        return jax.lax.cond(given[1][0] < end, block, lambda state, _: (state, nothing), state, given)

    return body


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def blocked(
    activation: Activation, tokens: jax.Array, weights: jax.Array, kernels: Kernels, owner: jax.Array, sources: jax.Array, places: jax.Array
) -> jax.Array:
    """`dispatched` in blocks of rows of one expert, one block after the other, so that no kernel is copied and no row scattered.

    owner (m,): a block's expert.  sources (m, r): which choice n * k + i stands there, past the last where none does.  places (n * k,):
    where each choice stands in the blocks.
    """
    return _blocked(activation, tokens, weights, kernels, owner, sources, places)[0]


def _blocked(
    activation: Activation, tokens: jax.Array, weights: jax.Array, kernels: Kernels, owner: jax.Array, sources: jax.Array, places: jax.Array
) -> tuple[jax.Array, Any]:
    k = weights.shape[1]

    def block(totals: tuple[()], given: tuple[jax.Array, ...]) -> tuple[tuple[()], tuple[jax.Array, ...]]:
        number, source = given
        gate, up, down = (kernel[number].astype(tokens.dtype) for kernel in kernels)
        rows = at(tokens, source // k)
        gates, ups = rows @ gate, rows @ up
        return totals, (gates, ups, (activation(gates) * ups) @ down)

    _, (gates, ups, rows) = jax.lax.scan(unless_empty(block, len(places)), (), (owner, sources))
    y = weighted(rows.reshape(-1, tokens.shape[-1]), places, weights)
    return y, (tokens, weights, kernels, owner, sources, places, gates, ups)


def _blocked_back(activation: Activation, kept: Any, outer: jax.Array) -> tuple[jax.Array | Kernels | None, ...]:
    tokens, weights, kernels, owner, sources, places, *inner = kept
    k, flat = weights.shape[1], weights.reshape(-1)

    def block(totals: Kernels, given: tuple[jax.Array, ...]) -> tuple[Kernels, tuple[jax.Array, jax.Array]]:
        number, source, gates, ups = given
        gate, up, down = (kernel[number].astype(tokens.dtype) for kernel in kernels)
        rows, outers, weight = at(tokens, source // k), at(outer, source // k), at(flat, source)[:, None]
        hidden, pull = jax.vjp(lambda gates, ups: activation(gates) * ups, gates, ups)
        back = outers @ down.T
        of_gates, of_ups = pull((back * weight).astype(hidden.dtype))
        pairs = ((rows, of_gates), (rows, of_ups), ((hidden * weight).astype(hidden.dtype), outers))
        totals = tuple(
            jax.lax.dynamic_update_index_in_dim(
                total, total[number] + jnp.matmul(left.T, right, preferred_element_type=total.dtype), number, 0
            )
            for total, (left, right) in zip(totals, pairs, strict=True)
        )
        return totals, (of_gates @ gate.T + of_ups @ up.T, (back * hidden).sum(-1, dtype=weights.dtype))

    totals, (of_rows, of_weights) = jax.lax.scan(
        unless_empty(block, len(places)), jax.tree.map(jnp.zeros_like, kernels), (owner, sources, *inner)
    )
    of_tokens = weighted(of_rows.reshape(-1, tokens.shape[-1]), places, jnp.ones_like(weights))
    return of_tokens, of_weights.reshape(-1)[places].reshape(weights.shape), totals, None, None, None


blocked.defvjp(_blocked, _blocked_back)


def refuse_decoding(module: nn.Module, ctx: Context) -> None:
    """Raises ValueError while decoding, for what sees later tokens."""
    if ctx.decoding is not None:
        raise ValueError(f"{type(module).__name__} compares a token with later ones and cannot decode one token after the other.")
