"""Forms of mixtures of experts."""

from typing import Any

from models.experts.memory import PEER, ProductKeyMemory
from models.experts.noncausal import ExpertChoice, SoftMoE
from models.experts.routed import Experts
from models.experts.routing import AuxiliaryLossFree, HashRouter, SoftmaxRouter

VARIANTS: dict[type, dict[str, Any]] = {
    Experts: {
        "default": Experts(),
        "weighted": Experts(4, 2, router=SoftmaxRouter(normalise=False)),
        "shared": Experts(6, 3, 0.5, shared=2, router=AuxiliaryLossFree()),
        "hashed": Experts(4, 1, router=HashRouter()),
    },
    ProductKeyMemory: {"small": ProductKeyMemory(keys=16, heads=2, active=4, key_width=16)},
    PEER: {"small": PEER(keys=8, heads=2, active=4, key_width=16)},
    ExpertChoice: {"default": ExpertChoice()},
    SoftMoE: {"default": SoftMoE(), "one_slot": SoftMoE(4, 1)},
}
