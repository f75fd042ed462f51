"""Forms of the classes of models/attention/relative.py."""

from typing import Any

from models.attention.relative import CoPE, T5Bias

VARIANTS: dict[type, dict[str, Any]] = {
    T5Bias: {"default": T5Bias(), "one_sided": T5Bias(8, 16, bidirectional=False)},
    CoPE: {"default": CoPE(), "few": CoPE(3)},
}
