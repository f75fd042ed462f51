"""Laws of layers: what a token's output may depend on, at a length that crosses no chunk (8) or several (264)."""

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from models.context import Context, Memory
from models.contracts import Residual, kind_of
from models.laws.carrier import apply_to
from models.laws.inputs import WIDTH, Component, normal, packed_context
from models.laws.verdict import require, require_close, require_up_to_rounding

SHORT, LONG = 8, 264  # the latter crosses chunks of 16, 64 and 256, and is no multiple of any
MEMORY, EXAMPLES = 6, 5  # tokens of the memory, and the most examples of a row
Array = np.ndarray | jax.Array  # of jax within a program
NOISE = 1e-6  # relative to the largest derivative: a Fourier transform rounds less


class Rows(NamedTuple):
    """Positions and segments of a row's tokens, segments of its memory, first tokens of its examples.

    Arrays (t,), (t,), (s,), (n,).
    """

    positions: Array
    segments: Array
    memory: Array
    starts: Array

    def context(self, memory: jax.Array) -> Context:
        """The context of one row."""
        positions, segments, memory_segments, starts = (jnp.asarray(leaf)[None] for leaf in self)
        return Context(
            positions=positions, segments=segments, starts=starts, memory=Memory(memory[None], memory_segments)
        )


class Windowed(Component, Protocol):
    """A layer with a window."""

    @property
    def window(self) -> int | None: ...

    @property
    def causal(self) -> bool: ...


def one_example(length: int) -> Rows:
    """A row that is one example."""
    return Rows(np.arange(length), np.ones(length, int), np.ones(MEMORY, int), np.zeros(EXAMPLES, int))


def example_lengths(length: int) -> tuple[int, ...]:
    """The lengths of the examples of a packed row; some tokens are left for padding."""
    if length >= LONG:
        return (3, 18, 70, 150, length - LONG + 20)
    first = max(1, 3 * length // 8)
    return (first, length - first - max(1, length // 8))


def several_examples(length: int) -> Rows:
    """A row that packs examples and ends with padding; the memory holds two, and padding."""
    lengths, begins = example_lengths(length), np.zeros(EXAMPLES, int)
    positions, segments = np.zeros(length, int), np.zeros(length, int)
    for number, (start, count) in enumerate(zip(np.cumsum((0, *lengths)), lengths, strict=False), 1):
        positions[start : start + count] = np.arange(count)
        segments[start : start + count] = number
        begins[number - 1] = start
    return Rows(positions, segments, np.array([1, 1, 2, 2, 2, 0]), begins)


EDGES = (
    1,
    3,
    5,
    *range(7, 35),
    47,
    48,
    49,
    *range(62, 67),
    80,
    96,
    112,
    127,
    128,
    129,
    160,
    191,
    192,
    193,
    240,
    254,
    255,
    256,
    257,
)


def pick_tokens(length: int) -> np.ndarray:
    """The output tokens whose derivatives are taken: all of a short row, 56 of a long one with edges of chunks."""
    if length <= 2 * SHORT:
        return np.arange(length)
    chosen = sorted({*range(SHORT), *(edge for edge in EDGES if edge < length), length - 2, length - 1})
    spare = [token for token in range(length) if token not in chosen]
    return np.array(sorted([*chosen, *spare[: -len(chosen) % SHORT]]))


@functools.lru_cache(maxsize=256)
def derivatives(layer: Component, length: int) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
    """(x, memory, arrays of one row) -> output, and its derivatives by tokens and by memory.

    The latter are (t, t) and (t, s): the largest over channels of the derivative of a random projection of an output
    token, and zero for outputs that are none of `pick_tokens`.  One program serves every law of the layer.
    """
    weights, seen = normal(9, length, WIDTH), pick_tokens(length)

    @jax.jit
    def program(x: jax.Array, memory: jax.Array, *rows: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        def output(x: jax.Array, memory: jax.Array) -> jax.Array:
            return apply_to(layer, x[None], Rows(*rows).context(memory))[0]

        y, pull = jax.vjp(output, x, memory)

        def row(token: jax.Array) -> tuple[jax.Array, jax.Array]:
            seed = jnp.where(jnp.arange(length)[:, None] == token, weights[:, : y.shape[-1]], 0).astype(y.dtype)
            by_token, by_memory = pull(seed)
            return jnp.abs(by_token).max(-1), jnp.abs(by_memory).max(-1)

        token_slopes, memory_slopes = jax.lax.map(jax.vmap(row), jnp.asarray(seen).reshape(-1, SHORT))

        def whole(leaf: jax.Array) -> jax.Array:
            return jnp.zeros((length, leaf.shape[-1])).at[seen].set(leaf.reshape(len(seen), -1))

        return y, whole(token_slopes), whole(memory_slopes)

    return program


@functools.lru_cache(maxsize=256)
def observe(layer: Component, length: int, packed: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Output, derivatives by tokens and derivatives by memory, of a row that is one example or packs several."""
    rows = several_examples(length) if packed else one_example(length)
    y, by_token, by_memory = derivatives(layer, length)(normal(1, length, WIDTH), normal(3, MEMORY, WIDTH), *rows)
    return np.asarray(y), np.asarray(by_token), np.asarray(by_memory)


def reach(layer: Component, packed: bool, length: int = SHORT) -> tuple[np.ndarray, np.ndarray]:
    """The largest derivative of output token i by input token j, (t, t), and by memory token j, (t, s)."""
    return observe(layer, length, packed)[1:]


def output(layer: Component, x: jax.Array | None = None, positions: np.ndarray | None = None) -> np.ndarray:
    """The output for one short row that is one example."""
    rows, x = one_example(SHORT), normal(1, SHORT, WIDTH) if x is None else x
    rows = rows if positions is None else rows._replace(positions=positions)
    return np.asarray(derivatives(layer, SHORT)(x, normal(3, MEMORY, WIDTH), *rows)[0])


def require_zero(derivatives: np.ndarray, forbidden: np.ndarray, words: str) -> None:
    """Raises BrokenLawError, naming the first pair, unless all forbidden derivatives are zero (up to rounding)."""
    limit = NOISE * derivatives.max(initial=0) if len(derivatives) > SHORT else 0
    wrong = np.argwhere(forbidden & ~(derivatives <= limit))
    if len(wrong):
        i, j = map(int, wrong[0])
        others = f", and {len(wrong) - 1} more pairs" if len(wrong) > 1 else ""
        require(
            False,
            f"output {i} depends on {words} {j}: derivative {derivatives[i, j]:.3g}{others} of {len(derivatives)}"
            " tokens",
        )


def law_keeps_the_shape(layer: Component) -> None:
    """(b, t, d) -> (b, t, d)."""
    x, ctx = normal(1, 2, SHORT, WIDTH), packed_context()
    shape = jax.eval_shape(lambda: apply_to(layer, x, ctx)).shape
    require(shape == x.shape, f"x of shape {x.shape} became {shape}")


def law_segments_do_not_mix(layer: Component, length: int = SHORT) -> None:
    """No output depends on a token, or on a part of the memory, of another example in the row."""
    by_token, by_memory = reach(layer, True, length)
    rows = several_examples(length)
    segments, memory = np.asarray(rows.segments), np.asarray(rows.memory)
    require_zero(by_token, segments[:, None] != segments[None], "token")
    require_zero(by_memory, segments[:, None] != memory[None], "memory token")
    tokens = (segments > 0) & np.isin(np.arange(length), pick_tokens(length))
    blind = (by_token.max(1) == 0) & tokens
    # a few may: weights that sum to less than one can all be zero
    few = 2 * blind.sum() <= tokens.sum()
    require(
        few or by_memory.any(),
        f"output {int(blind.argmax())} depends on no token, like {blind.sum()} of {tokens.sum()}",
    )


def law_causal_sees_nothing_later(layer: Component, length: int = SHORT) -> None:
    """No output depends on a later token."""
    require_zero(reach(layer, False, length)[0], np.triu(np.ones((length, length), bool), 1), "the later token")


def law_window_reaches_as_far_as_it_says(layer: Windowed) -> None:
    """Outputs depend on the tokens less than `window` away, and on no others."""
    distance = np.arange(SHORT)[:, None] - np.arange(SHORT)[None]
    assert layer.window is not None
    inside = (np.abs(distance) < layer.window) & ((distance >= 0) if layer.causal else True)
    wrong = np.argwhere((reach(layer, False)[0] > 0) != inside)
    require(
        not len(wrong), f"output and token {wrong[0].tolist() if len(wrong) else ''} against a window of {layer.window}"
    )


def law_cross_reads_the_whole_memory(layer: Component) -> None:
    """Every output depends on every token of the memory."""
    blind = np.argwhere(reach(layer, False)[1] == 0)
    require(not len(blind), f"output and memory token {blind[0].tolist() if len(blind) else ''}: derivative 0")


def law_without_positions_order_does_not_matter(layer: Component) -> None:
    """Tokens in another order give the same outputs in that order."""
    order = np.random.default_rng(0).permutation(SHORT)
    require_close(output(layer, normal(1, SHORT, WIDTH)[order]), output(layer)[order], 1e-5, "tokens in another order")


def law_only_differences_of_positions_matter(layer: Component) -> None:
    """Positions that are all 5 higher change nothing; twice the positions do."""
    positions = np.arange(SHORT)
    require_close(output(layer, positions=positions + 5), output(layer), 1e-4, "positions that are all 5 higher")
    require(
        np.abs(output(layer) - output(layer, positions=positions * 2)).max() > 1e-3,
        "twice the positions change nothing",
    )


@functools.lru_cache(maxsize=64)
def usable_length(layer: Component) -> tuple[int, str]:
    """The first of LONG (72 for a residual), multiples of chunks, and SHORT at which a layer runs, and why LONG fails.

    Raises what the layer raises at SHORT if it runs at none.
    """
    reason = ""
    # a residual runs as a chain of branches, hence shorter
    for length in (LONG, 320, 272, 72, 64, 16, SHORT) if kind_of(layer) is not Residual else (72, SHORT):
        ctx = several_examples(length).context(normal(3, MEMORY, WIDTH))
        try:
            jax.eval_shape(
                lambda x, ctx=ctx: apply_to(layer, x, ctx), jax.ShapeDtypeStruct((1, length, WIDTH), jnp.float32)
            )
        except Exception as error:  # whatever the layer's own code raises
            if length == SHORT:
                raise
            reason = reason or f"{length} tokens are refused: {(str(error).splitlines() or [type(error).__name__])[0]}"
        else:
            return length, reason
    raise AssertionError


def looks_ahead(layer: Component, length: int = SHORT) -> str:
    """Tells if outputs depend on later tokens: "never", "always" or "sometimes".

    The first tokens decide between the latter two.
    """
    slopes = reach(layer, False, length)[0]
    ahead = (np.triu(slopes, 1) > NOISE * slopes.max(initial=0)).any(1)
    return "never" if not ahead.any() else "always" if ahead[: SHORT - 1].sum() * 2 > SHORT - 1 else "sometimes"


def mixes_tokens(layer: Component, length: int = SHORT) -> bool:
    """Tells if an output depends on a token at another position."""
    slopes = reach(layer, False, length)[0]
    return bool((slopes - np.diag(np.diag(slopes)) > NOISE * slopes.max(initial=0)).any())


ROWS = 8


@functools.lru_cache(maxsize=64)
def forward(layer: Component) -> Callable[..., jax.Array]:
    """(x, positions, segments, starts) -> output, compiled; of ROWS rows."""

    def program(x: jax.Array, positions: jax.Array, segments: jax.Array, starts: jax.Array) -> jax.Array:
        memory = Memory(
            jnp.broadcast_to(normal(3, MEMORY, WIDTH), (len(x), MEMORY, WIDTH)), jnp.ones((len(x), MEMORY), jnp.int32)
        )
        return apply_to(layer, x, Context(positions=positions, segments=segments, starts=starts, memory=memory))

    return jax.jit(program)


def run(layer: Component, x: np.ndarray, rows: list[Rows]) -> np.ndarray:
    """The output for ROWS rows."""
    return np.asarray(
        forward(layer)(
            x, *(np.stack([getattr(row, name) for row in rows]) for name in ("positions", "segments", "starts"))
        )
    )


def law_rows_do_not_mix(layer: Component, length: int = SHORT) -> None:
    """Another row of the batch changes nothing, neither by its tokens nor by their size."""
    x, rows = (
        np.asarray(normal(1, ROWS, length, WIDTH)),
        [several_examples(length)] + [one_example(length)] * (ROWS - 1),
    )
    other = np.concatenate([x[:1], 10 * x[1:] + 1])
    require_close(run(layer, other, rows)[:1], run(layer, x, rows)[:1], 1e-4, "row 0 after the other rows changed")


def law_later_tokens_change_nothing(layer: Component, length: int = SHORT) -> None:
    """Other values of later tokens change no output, even if all derivatives are zero."""
    x, rows = np.asarray(normal(1, length, WIDTH)), [one_example(length)] * ROWS
    cuts = [cut for cut in EDGES if cut < length]
    for group in (cuts[index : index + ROWS - 1] for index in range(0, len(cuts), ROWS - 1)):
        changed = np.stack([x] * ROWS)
        for row, cut in enumerate(group, 1):
            changed[row, cut:] = np.asarray(normal(20 + cut, length - cut, WIDTH))
        y = run(layer, changed, rows)
        for row, cut in enumerate(group, 1):
            require_close(
                y[row, :cut], y[0, :cut], 1e-4, f"outputs before token {cut} after the tokens from there on changed"
            )


def law_packed_rows_equal_the_examples_alone(layer: Component, length: int = SHORT) -> None:
    """A row that packs examples gives each the outputs that it has alone, before padding."""
    packed, lengths = several_examples(length), example_lengths(length)
    x = np.asarray(normal(1, length, WIDTH))
    starts = np.cumsum((0, *lengths))
    chosen = sorted(range(len(lengths)), key=lambda number: lengths[number])[-(ROWS - 1) :]
    inputs, rows = np.stack([x] * ROWS), [packed] + [one_example(length)] * (ROWS - 1)
    for row, number in enumerate(chosen, 1):
        count = lengths[number]
        index = np.arange(length)
        inputs[row, :count] = x[starts[number] : starts[number] + count]
        rows[row] = one_example(length)._replace(
            positions=np.where(index < count, index, 0), segments=(index < count).astype(int)
        )
    y = run(layer, inputs, rows)

    def compare(tolerance: float) -> None:
        for row, number in enumerate(chosen, 1):
            start, count = int(starts[number]), lengths[number]
            words = f"example {number} of the row, tokens {start} to {start + count - 1}, against itself alone"
            require_close(y[0, start : start + count], y[row, :count], tolerance, words)

    require_up_to_rounding(compare, lambda x: run(layer, x, rows), inputs)
