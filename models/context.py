"""The context: everything that a layer may read besides its input."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax


@dataclasses.dataclass(frozen=True)
class Base:
    """The width and depth that muP's scales are relative to: see `models.parametrization`."""

    width: int
    depth: int


@flax.struct.dataclass
class Memory:
    """The source of cross-attention: encoder output x (b, s, d) and its segments (b, s), None for one example a row."""

    x: jax.Array
    segments: jax.Array | None = None


@flax.struct.dataclass
class Decoding:
    """The progress of decoding: `index` tokens of each row are in the cache already, which holds `length` at most.

    `start` is True for the first call, which fills the cache from the prompt; static, as `length` is.  With `last` a
    head computes the logits of the last token of each row alone, (b, 1, v).
    """

    index: jax.Array | int = 0
    length: int = flax.struct.field(pytree_node=False, default=0)
    start: bool = flax.struct.field(pytree_node=False, default=True)
    last: bool = flax.struct.field(pytree_node=False, default=False)

    def choose(self, x: jax.Array) -> jax.Array:
        """Chooses the tokens whose logits are wanted: (b, t, d) -> (b, t or 1, d)."""
        return x[:, -1:] if self.last else x


@flax.struct.dataclass
class Context:
    """Everything about a batch that is not the stream itself.

    positions (b, t): position of each token in its example.
    segments (b, t): the example of the row that a token belongs to, counted from 1; 0 is padding.  None: one example a
    row.
    starts (b, n): index of the first token of each example packed in a row.  None: one example a row, starting at 0.
    memory: encoder output for cross-attention.
    tokens (b, t): ids of the stream's tokens, for layers that look values up by them; set by embeds of tokens.
    decoding: set while tokens come one after the other; layers then keep what they need in the collection "cache".
    shared: what all layers use and is computed once, or what an earlier layer gives to the later ones, by name.
    layer, depth: index of the block and number of blocks; branch, branches: the same of the block's branches.
    train: True while training; static, so that it selects the compiled program.
    base: the base model's width and depth if the parametrization is muP, otherwise None.
    """

    positions: jax.Array | None = None
    segments: jax.Array | None = None
    starts: jax.Array | None = None
    memory: Memory | None = None
    tokens: jax.Array | None = None
    decoding: Decoding | None = None
    shared: Mapping[str, Any] = flax.struct.field(default_factory=dict)
    layer: jax.Array | int = 0
    depth: int = flax.struct.field(pytree_node=False, default=1)
    branch: int = flax.struct.field(pytree_node=False, default=0)
    branches: int = flax.struct.field(pytree_node=False, default=1)
    train: bool = flax.struct.field(pytree_node=False, default=False)
    base: Base | None = flax.struct.field(pytree_node=False, default=None)

    @classmethod
    def of(
        cls,
        batch: Mapping[str, jax.Array],
        train: bool = False,
        decoding: Decoding | None = None,
        base: Base | None = None,
    ) -> "Context":
        """The context that a batch's own keys describe."""
        positions, segments, starts = (batch.get(name) for name in ("positions", "segments", "starts"))
        return cls(positions=positions, segments=segments, starts=starts, decoding=decoding, train=train, base=base)

    @property
    def branch_scale(self) -> float:
        """Factor of each branch of a block: 1, or base depth / depth."""
        return 1.0 if self.base is None else self.base.depth / self.depth

    def logit_scale(self, d: int) -> float:
        """Factor of logits from a stream of width d over a table: 1, or base width / d."""
        return 1.0 if self.base is None else self.base.width / d

    def product_scale(self, k: int) -> float:
        """Factor of products of two learned vectors of width k: 1, or 64 / k."""
        return 1.0 if self.base is None else 64 / k

    def score_scale(self, k: int) -> float:
        """Factor of products of queries and keys of width k: 1 / sqrt(k), or 8 / k."""
        return k**-0.5 if self.base is None else 8 / k
