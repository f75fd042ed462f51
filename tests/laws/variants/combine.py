"""Forms of several layers as one."""

from typing import Any

from models.attention.softmax import Attention
from models.feedforward import MLP
from models.mixers.combine import Concat, Sum

VARIANTS: dict[type, dict[str, Any]] = {
    Sum: {"parallel": Sum((Attention(4, causal=True), MLP(2.0)))},
    Concat: {"hybrid": Concat((Attention(4, causal=True), Attention(2, causal=True, window=3)))},
}
