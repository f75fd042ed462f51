"""Forms of attention's relatives."""

from typing import Any

from models.attention.differential import DifferentialAttention
from models.attention.forgetting import ForgettingAttention
from models.attention.latent import LatentAttention
from models.attention.native import NativeSparseAttention
from models.attention.path import PaTHAttention
from models.attention.sharing import SharedAttention, ValueResidual
from models.attention.sparse import BlockRouting
from models.norm import RMSNorm
from models.position import RoPE

VARIANTS: dict[type, dict[str, Any]] = {
    LatentAttention: {
        "bidirectional": LatentAttention(4, 6, 4),
        "causal": LatentAttention(4, 6, 4, causal=True),
        "compressed_queries": LatentAttention(2, 6, 2, head_width=6, query_rank=5, causal=True),
        "narrow_values": LatentAttention(2, 6, 2, value_width=3, causal=True),
    },
    DifferentialAttention: {
        "bidirectional": DifferentialAttention(),
        "causal": DifferentialAttention(2, causal=True, position=RoPE()),
        "windowed": DifferentialAttention(2, causal=True, window=3),
    },
    ForgettingAttention: {
        "default": ForgettingAttention(),
        "pro": ForgettingAttention(4, qk_norm=RMSNorm(), gate=True),
    },
    NativeSparseAttention: {"small": NativeSparseAttention(4, kv_heads=2, size=2, stride=1, block=2, active=4, near=3)},
    PaTHAttention: {
        "default": PaTHAttention(4),
        "grouped": PaTHAttention(4, kv_heads=2, qk_norm=RMSNorm(), chunk=4),
    },
    ValueResidual: {"first": ValueResidual(4, causal=True)},
    SharedAttention: {"giving": SharedAttention(4, kv_heads=2, causal=True, position=RoPE())},
    BlockRouting: {"default": BlockRouting(), "small": BlockRouting(2, 2)},
}
