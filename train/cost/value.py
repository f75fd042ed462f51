"""Costs of a structure as one value: parameters by role, FLOPs, and the bytes of decoding."""

import dataclasses

from train.errors import Json


@dataclasses.dataclass(frozen=True)
class Cost:
    """Costs of a structure; None for what does not apply, or was not asked for.

    parameters: all of them; `embedding` those of the model's embed; `active` those that a token is multiplied with,
        the embed's all among them: less than all for a mixture of experts and for tables that are looked up.
    flops: multiplications and additions of a training step's products; `forward` those of its forward pass.
    activations: bytes that the compiled step takes on one device beside its arguments.
    state: bytes that decoding keeps for a row of `length` tokens; `decoding` the FLOPs of its last token.
    """

    parameters: int
    flops: int
    embedding: int | None = None
    active: int | None = None
    forward: int | None = None
    activations: int | None = None
    state: int | None = None
    length: int | None = None
    decoding: int | None = None

    def record(self) -> dict[str, Json]:
        """Fields as JSON values."""
        return dataclasses.asdict(self)


def divide(cost: float | None, baseline: float | None) -> float | None:
    """The ratio of two costs; None unless both are known and the baseline's is above 0."""
    return cost / baseline if cost is not None and baseline else None
