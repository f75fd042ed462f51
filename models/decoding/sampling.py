"""Text from a causal model: sampling as pure functions of (params, cache, token), one compiled step."""

import dataclasses
import functools
import math
import time
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from models.attention.weigh import HIDDEN
from models.context import Decoding
from models.contracts import Batch, Model, Tree
from models.decoding.decodable import require_decodable
from models.decoding.packing import compile_both, pays, transpose_kernels
from models.largest import find_largest
from models.position import LearnedPosition

MOST = 32  # tokens of a dispatch
SMOOTH = 0.05  # seconds, below which text seems to flow
State = tuple[jax.Array, jax.Array, jax.Array, jax.Array]  # logits, index and positions of the next token, the key


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws the next token from its logits (b, v); takes the likeliest if the temperature is 0.

    `top_k` keeps the k likeliest tokens, `top_p` the fewest likeliest whose probabilities sum to at least p
    (arXiv:1904.09751), `min_p` those at least p times as likely as the likeliest (arXiv:2407.01082); the kept ones are
    drawn from softmax(logits / temperature).  The temperature comes first, as in transformers.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(
                f"Sampler.temperature is {self.temperature}; give 0 for the likeliest token, or a finite number above."
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"Sampler.top_k is {self.top_k}; it counts tokens, so give 1 or more.")
        for name in ("top_p", "min_p"):
            if (value := getattr(self, name)) is not None and not 0 < value <= 1:
                raise ValueError(f"Sampler.{name} is {value}; give a probability above 0, up to 1.")

    def filter(self, logits: jax.Array) -> jax.Array:
        """The logits over the temperature, with those of dropped tokens at HIDDEN.  (b, v) -> (b, v)."""
        logits = logits.astype(jnp.float32) / (self.temperature or 1.0)
        if self.top_k is not None:
            least = jax.lax.top_k(logits, min(self.top_k, logits.shape[-1]))[0][:, -1:]
            logits = jnp.where(logits < least, HIDDEN, logits)
        if self.top_p is not None:
            ordered = jnp.sort(logits, axis=-1, descending=True)
            probs = jax.nn.softmax(ordered, axis=-1)
            count = ((jnp.cumsum(probs, axis=-1) - probs) < self.top_p).sum(-1, keepdims=True)
            logits = jnp.where(logits < jnp.take_along_axis(ordered, count - 1, axis=-1), HIDDEN, logits)
        if self.min_p is not None:
            logits = jnp.where(logits < logits.max(-1, keepdims=True) + jnp.log(self.min_p), HIDDEN, logits)
        return logits

    def __call__(self, logits: jax.Array, key: jax.Array) -> jax.Array:
        """(b, v) and a key -> tokens (b,)."""
        if self.temperature == 0:
            return find_largest(logits)
        return jax.random.categorical(key, self.filter(logits))


def padded(prompts: Sequence[Sequence[int]]) -> dict[str, jax.Array]:
    """Prompts of unequal length as one batch: tokens, segments and positions (b, t), padding on the left.

    Raises ValueError for a prompt without tokens.
    """
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError("A prompt has no tokens; give each at least one.")
    t = max(map(len, prompts))
    batch = {name: np.zeros((len(prompts), t), np.int32) for name in ("tokens", "segments", "positions")}
    for row, prompt in enumerate(prompts):
        first = t - len(prompt)
        batch["tokens"][row, first:] = prompt
        batch["segments"][row, first:] = 1
        batch["positions"][row, first:] = np.arange(len(prompt))
    return jax.tree.map(jnp.asarray, batch)


@functools.partial(jax.jit, static_argnums=(0, 3))
def prefill(model: Model, params: Tree, batch: Batch, length: int) -> tuple[jax.Array, Tree]:
    """The logits (b, v) after the prompts, and the cache for `length` tokens a row in all.

    The cache's arrays are (b, ...), those of scanned and tied stacks (l, b, ...).
    """
    decoding = Decoding(0, length, True, last=True)
    logits, cache = model.apply({"params": params}, batch, decoding=decoding, mutable=["cache"])
    return logits[:, -1], cache.get("cache", {})


def advance(
    model: Model, params: Tree, cache: Tree, batch: Batch, index: jax.Array, length: int
) -> tuple[jax.Array, Tree]:
    """Decodes one more token a row, or several: (params, cache, tokens (b, t)) -> (logits (b, v) after them, cache).

    `index` tokens of each row are in the cache already.
    """
    decoding = Decoding(index, length, False, last=True)
    logits, cache = model.apply({"params": params, "cache": cache}, batch, decoding=decoding, mutable=["cache"])
    return logits[:, -1], cache.get("cache", {})


def _next(
    packed: bool,
    model: Model,
    params: Tree,
    cache: Tree,
    state: State,
    count: jax.Array,
    sampler: Sampler,
    length: int,
) -> tuple[jax.Array, State, Tree]:
    """The next `count` tokens of each row, the first of (MOST, b), and the state and cache after them."""

    def draw(number: jax.Array, carry: tuple[jax.Array, State, Tree]) -> tuple[jax.Array, State, Tree]:
        tokens, (logits, index, position, key), cache = carry
        key, sample_key = jax.random.split(key) if sampler.temperature else (key, key)
        token = sampler(logits, sample_key).astype(jnp.int32)
        batch = {"tokens": token[:, None], "segments": jnp.ones_like(token)[:, None], "positions": position[:, None]}
        usual = transpose_kernels(params) if packed else params  # in the loop, where products read them
        logits, cache = advance(model, usual, cache, batch, index, length)
        return tokens.at[number].set(token), (logits, index + 1, position + 1, key), cache

    return jax.lax.fori_loop(0, count, draw, (jnp.zeros((MOST, len(state[0])), jnp.int32), state, cache))


_take_next = compile_both(_next, static=(0, 5, 6), donated=2)


def generate(
    model: Model,
    params: Tree,
    batch: Batch,
    steps: int,
    sampler: Sampler = Sampler(),
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """Yields the tokens (b,) that follow the prompts, `steps` of them.

    One dispatch makes as many tokens as take at most `SMOOTH` seconds, so that a small model does not wait for the host
    and a large one is still read token by token.  `batch` is the output of `padded` (for an EncoderDecoder also
    `source` and its segments).  Raises ValueError if a layer cannot decode.
    """
    batch = complete(model, batch, steps)
    t = batch["tokens"].shape[1]
    length, made, count = t + steps, 0, 1
    logits, cache = prefill(model, params, batch, length)
    state = logits, jnp.asarray(t), batch["positions"][:, -1] + 1, jax.random.key(seed)
    if packed := pays(len(batch["tokens"]), steps):
        params = transpose_kernels(params)
    while made < steps:
        began = time.perf_counter()
        count = min(count, steps - made)
        tokens, state, cache = _take_next[packed](model, params, cache, state, jnp.asarray(count), sampler, length)
        drawn = np.asarray(tokens)[:count]
        spent = time.perf_counter() - began
        yield from drawn
        made += count
        count = plan_dispatch(count, spent)


def plan_dispatch(count: int, seconds: float) -> int:
    """The number of tokens of the next dispatch, after one of `count` tokens that took so many seconds."""
    return max(1, min(2 * count, MOST, int(count * SMOOTH / seconds)))


def complete(model: Model, batch: Batch, steps: int) -> dict[str, jax.Array]:
    """Fills in segments and positions if the batch has none.

    Raises ValueError if the model has too few positions or mixes tokens without keeping them.
    """
    tokens, position = jnp.asarray(batch["tokens"]), getattr(getattr(model, "embed", None), "position", None)
    if isinstance(position, LearnedPosition) and tokens.shape[1] + steps > position.length:
        raise ValueError(
            f"The prompt has {tokens.shape[1]} tokens and {steps} are to follow, the model has {position.length}"
            f" positions: ask for at most {max(position.length - tokens.shape[1], 0)}, or train with a larger"
            " model.embed.position.length."
        )
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    batch = {"segments": jnp.ones_like(tokens), "positions": positions} | {
        name: jnp.asarray(value) for name, value in batch.items()
    }
    require_decodable(model, batch, tokens.shape[1] + steps)
    return batch
