"""Forms of embeds, of the head of boxes, of pools of many tokens."""

from typing import Any

from models.embed.features import FeatureEmbed, QueryEmbed, TrajectoryEmbed
from models.embed.patches import ConvEmbed, PatchEmbed, TubeletEmbed
from models.embed.tokens import FactorisedEmbed, HashedNgramEmbed
from models.head.pool import EveryToken
from models.head.values import BoxHead
from models.position import LearnedPosition

VARIANTS: dict[type, dict[str, Any]] = {
    FactorisedEmbed: {"default": FactorisedEmbed(11, 16, 4, LearnedPosition(12))},
    HashedNgramEmbed: {"default": HashedNgramEmbed(11, 16, buckets=3)},
    PatchEmbed: {"default": PatchEmbed(16, 2, position=LearnedPosition(12)), "bare": PatchEmbed(16, 2, registers=0)},
    ConvEmbed: {
        "default": ConvEmbed(16, (4,), position=LearnedPosition(12)),
        "bare": ConvEmbed(16, (4, 4), (2, 1), None, registers=0),
    },
    TubeletEmbed: {"default": TubeletEmbed(16, 1, 2, registers=2), "boxes": TubeletEmbed(16, 2, 2)},
    FeatureEmbed: {"default": FeatureEmbed(16)},
    QueryEmbed: {"default": QueryEmbed(5, 16)},
    TrajectoryEmbed: {"default": TrajectoryEmbed(16), "placed": TrajectoryEmbed(16, LearnedPosition(12))},
    EveryToken: {"default": EveryToken(), "third": EveryToken(3, 1), "last": EveryToken(1, -2)},
    BoxHead: {"default": BoxHead(3)},
}
