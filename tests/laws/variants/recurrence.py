"""Forms of the recurrences whose state is a matrix."""

from typing import Any

from models.recurrence.decayed import Mamba2, Retention
from models.recurrence.delta import DeltaNet, DeltaProduct, GatedDeltaNet, KimiDeltaAttention
from models.recurrence.levels import LogLinearMamba2
from models.recurrence.mamba3 import Mamba3
from models.recurrence.mlstm import MLSTM
from models.recurrence.rwkv import RWKV7
from models.recurrence.ttt import TTTLinear

VARIANTS: dict[type, dict[str, Any]] = {
    Retention: {"default": Retention(), "unplaced": Retention(2, 1.0, None)},
    Mamba2: {"default": Mamba2(), "grouped": Mamba2(4, 1.5, 8, groups=2)},
    LogLinearMamba2: {
        "default": LogLinearMamba2(levels=6),
        "grouped": LogLinearMamba2(4, 1.5, 8, groups=2, levels=3),
    },
    DeltaNet: {"default": DeltaNet(), "plain": DeltaNet(2, strength=2.0, convolution=None)},
    GatedDeltaNet: {"default": GatedDeltaNet(2), "grouped_values": GatedDeltaNet(2, 0.5, 2.0, value_heads=4)},
    MLSTM: {"default": MLSTM(), "uncapped": MLSTM(2, 1.0, None, 0.0)},
    KimiDeltaAttention: {"default": KimiDeltaAttention(), "ranked": KimiDeltaAttention(4, 3)},
    DeltaProduct: {"default": DeltaProduct(2, 2), "three_steps": DeltaProduct(3, 2, 0.5, 1.0, decay=False)},
    Mamba3: {"default": Mamba3(2, 1.0, 8), "all_turned": Mamba3(4, 1.5, 6, 1.0)},
    TTTLinear: {"default": TTTLinear(2), "short_steps": TTTLinear(4, 3, within=None)},
    RWKV7: {"default": RWKV7(), "first": RWKV7(4, value_residual=True)},
}
