"""What a layer may read besides its input."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax


@flax.struct.dataclass
class Memory:
    """What cross-attention reads: encoder output x (b, s, d) and its segments (b, s), None where all is one example."""

    x: jax.Array
    segments: jax.Array | None = None


@flax.struct.dataclass
class Context:
    """Everything about a batch that is not the stream itself.

    positions (b, t): place of each token in its own example.
    segments (b, t): which example of the row a token belongs to, counted from 1; 0 is padding.  None: one example a row.
    starts (b, n): index of the first token of each example packed in a row.  None: one example a row, starting at 0.
    memory: encoder output for cross-attention.
    shared: what all layers use and is computed once.
    train: True while training; static, so that it selects the compiled program.
    """

    positions: jax.Array | None = None
    segments: jax.Array | None = None
    starts: jax.Array | None = None
    memory: Memory | None = None
    shared: Mapping[str, Any] = flax.struct.field(default_factory=dict)
    train: bool = flax.struct.field(pytree_node=False, default=False)

    @classmethod
    def of(cls, batch: Mapping[str, jax.Array], train: bool = False) -> "Context":
        """The context that a batch's own keys describe."""
        return cls(positions=batch.get("positions"), segments=batch.get("segments"), starts=batch.get("starts"), train=train)
