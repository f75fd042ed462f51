"""Forms of the classes of models/mixers/convolution.py."""

from typing import Any

from models.mixers.convolution import LongConvolution, ShortConvolution

VARIANTS: dict[type, dict[str, Any]] = {
    ShortConvolution: {
        "default": ShortConvolution(),
        "linear": ShortConvolution(3, None, bias=True),
        "wide": ShortConvolution(10),
    },
    LongConvolution: {
        "default": LongConvolution(length=64),
        "shorter_than_the_row": LongConvolution(length=4, hidden=8, bands=2),
    },
}
