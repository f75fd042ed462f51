"""Forms of the classes of models/mixers/lookup.py."""

from typing import Any

from models.mixers.lookup import Engram, PerLayerEmbedding

VARIANTS: dict[type, dict[str, Any]] = {
    Engram: {"small": Engram(heads=2, buckets=11, width=8)},
    PerLayerEmbedding: {"small": PerLayerEmbedding(16, 8)},
}
