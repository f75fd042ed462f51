"""Decoding with the cache against computing the whole row again for each token, for every mixer that decodes: `make
bench`.

    python -m tests.benchmarks.decoding [--only NAME ...] [--json FILE]

Two blocks of width 512 (the mixer by its defaults and an MLP), batch 1, float32: 256 tokens after a prompt of 256, by
`generate`, against one forward pass of the full row of 512 for each token, both compiled; a dozen of those are timed
and multiplied, in turn with the cached ones.  Cached decoding must be at least 10 times as fast.  What one layer keeps,
and the time of a token, are given for a cache with room for 512 and for 8,192 tokens: mixers with a constant state need
the same of both.  Ends with 1 where a goal does not hold.
"""

import functools
import statistics
from typing import Any

import jax
import jax.numpy as jnp

from models import Block, LogitsHead, RMSNorm, Stack, TokenEmbed, Transformer
from models.decoding.sampling import advance, generate, prefill
from tests.benchmarks.measure import (
    WIDTH,
    begin,
    constant,
    finish,
    fitted,
    kept_bytes,
    mixers,
    note,
    parser,
    report,
    seconds,
    selected,
)

VOCABULARY, PROMPT, TOKENS, SAMPLES, FASTER = 256, 256, 256, 12, 10.0
ROOMS = 512, 8192  # tokens that the cache has room for
SAME = 1.25  # how far the time of a token may grow with the room, where the state is constant


def model_of(layer: Any) -> Transformer:
    """A small language model of this mixer."""
    return Transformer(TokenEmbed(VOCABULARY, WIDTH), Stack(Block(fitted(layer, 1024)), 2, RMSNorm()), LogitsHead())


def rows(t: int) -> dict[str, jax.Array]:
    """A row of tokens."""
    return {
        "tokens": jnp.arange(t)[None] % VOCABULARY,
        "segments": jnp.ones((1, t), jnp.int32),
        "positions": jnp.arange(t)[None],
    }


def token_seconds(model: Transformer, params: Any, times: int = 24) -> dict[int, float]:
    """Median seconds of a token when the cache has room for as many as each of ROOMS, near its end; of all rooms in
    turn.
    """
    caches, steps = {}, {}
    for room in ROOMS:
        caches[room] = jax.jit(functools.partial(prefilled, model, room))(params)
        steps[room] = jax.jit(functools.partial(advance, model, length=room), donate_argnums=1)
    tokens = {"tokens": jnp.ones((1, 1), jnp.int32), "segments": jnp.ones((1, 1), jnp.int32)}

    def once(room: int, index: int) -> Any:
        logits, caches[room] = steps[room](
            params, caches[room], tokens | {"positions": jnp.full((1, 1), index)}, jnp.asarray(index)
        )
        return logits, caches[room]

    spent = [
        {room: seconds(functools.partial(once, room, room - left)) for room in ROOMS}
        for left in range(times + 1, 0, -1)
    ]
    return {room: statistics.median(each[room] for each in spent[1:]) for room in ROOMS}


def prefilled(model: Transformer, room: int, params: Any) -> Any:
    """The cache after the prompt."""
    return prefill(model, params, rows(PROMPT), room)[1]


def measure(layer: Any) -> dict[str, float]:
    """A mixer's figures."""
    model, whole = model_of(layer), rows(PROMPT + TOKENS)
    params = jax.jit(lambda: model.init(jax.random.key(0), rows(8))["params"])()
    forward = jax.jit(lambda params, batch: model.apply({"params": params}, batch))
    again = functools.partial(forward, params, whole)

    def cached() -> Any:
        return list(generate(model, params, rows(PROMPT), TOKENS))

    jax.block_until_ready((again(), cached()))
    pairs = [(seconds(cached), statistics.median(seconds(again) for _ in range(SAMPLES // 3))) for _ in range(3)]
    found = {
        "faster": statistics.median(TOKENS * each / spent for spent, each in pairs),
        "seconds": statistics.median(a for a, _ in pairs),
    }
    for room, spent in token_seconds(model, params).items():
        found[f"bytes_{room}"] = kept_bytes(layer, room) or 0
        found[f"token_{room}"] = spent
    return found


def main() -> None:
    """Measures and prints the table."""
    options = parser(__doc__).parse_args()
    begin()
    known = {name: layer for name, layer in mixers().items() if kept_bytes(layer, 512) is not None}
    figures, failures, table = {}, [], []
    for name in selected(known, options.only):
        found, steady = measure(known[name]), constant(known[name])
        figures[name] = found
        small, large = (found[f"token_{room}"] for room in ROOMS)
        note(
            f"{name}: {found['seconds']:.2f} s for {TOKENS} tokens, {found['faster']:.1f} times as fast as without"
            " the cache"
        )
        goals = [
            found["faster"] >= FASTER,
            not steady or (large <= SAME * small and found["bytes_512"] == found["bytes_8192"]),
        ]
        if not all(goals):
            failures.append(
                f"{name}, {found['faster']:.1f} times as fast, a token's time grows {large / small:.2f} times"
            )
        kept = [f"{found[f'bytes_{room}'] / 1024:,.0f}" for room in ROOMS]
        times = [f"{1000 * found[f'token_{room}']:.2f}" for room in ROOMS]
        table.append(
            (
                name,
                f"{found['faster']:.1f}",
                *kept,
                *times,
                "constant" if steady else "",
                "holds" if all(goals) else "MISSED",
            )
        )
    columns = (
        "mixer",
        "times as fast",
        *(f"KiB, {room:,}" for room in ROOMS),
        *(f"ms, {room:,}" for room in ROOMS),
        "state",
        "goal",
    )
    report(
        columns,
        table,
        "Decoding with the cache over computing the row again; what a layer keeps, and a token's time, by room for"
        " tokens",
    )
    finish(figures, options.json, failures)


if __name__ == "__main__":
    main()
