"""Forms of the classes of models/mixers/axial.py."""

from typing import Any

from models.attention.softmax import Attention
from models.mixers.axial import Along

VARIANTS: dict[type, dict[str, Any]] = {
    Along: {
        "time": Along((-1, 2), (0,), Attention(4)),
        "crossed": Along((-1, 2, 2), (0, 2), Attention(4)),
        "space": Along((-1, 2, 2), (1, 2), Attention(2, kv_heads=1)),
    },
}
