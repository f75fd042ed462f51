"""Forms of the classes of models/mixers/noncausal.py."""

from typing import Any

from models.activation import silu
from models.mixers.noncausal import Pooling, TokenMLP

VARIANTS: dict[type, dict[str, Any]] = {
    TokenMLP: {"default": TokenMLP(12), "silu": TokenMLP(8, 0.5, silu)},
    Pooling: {"default": Pooling(), "causal": Pooling(3, causal=True)},
}
