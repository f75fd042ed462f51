"""Forms of residuals whose state is more than one stream."""

from typing import Any

from models.residual.depthwise import AttentionResiduals
from models.residual.single import LayerScale, PostNorm, StochasticDepth
from models.residual.streams import HyperConnections

VARIANTS: dict[type, dict[str, Any]] = {
    HyperConnections: {"static": HyperConnections(), "dynamic": HyperConnections(2, dynamic=True)},
    AttentionResiduals: {"full": AttentionResiduals(), "blocks": AttentionResiduals(blocks=2)},
    StochasticDepth: {
        "pre": StochasticDepth(),
        "post": StochasticDepth(PostNorm(), 0.5),
        "streams": StochasticDepth(HyperConnections(2)),
        "scaled": StochasticDepth(LayerScale()),
    },
}
