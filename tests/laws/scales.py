"""The distributions of first values of each component's parameters, with their source."""

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from models import Attention, Softmax, TalkingHeads
from models.attention.differential import DifferentialAttention
from models.attention.forgetting import ForgettingAttention
from models.attention.latent import LatentAttention
from models.attention.native import NativeSparseAttention
from models.attention.relative import FIRE, CoPE, T5Bias
from models.attention.sharing import ValueResidual
from models.depth.adaptive import AdaptiveStack
from models.embed.features import QueryEmbed
from models.embed.patches import PatchEmbed, TubeletEmbed
from models.embed.tokens import FactorisedEmbed, HashedNgramEmbed, TokenEmbed
from models.experts.memory import PEER, ProductKeyMemory
from models.experts.noncausal import SoftMoE
from models.experts.routed import Experts
from models.experts.routing import AuxiliaryLossFree
from models.head.logits import LogitsHead
from models.head.values import BoxHead, ClassHead, ValueHead
from models.laws.inputs import Component
from models.mixers.convolution import LongConvolution, ShortConvolution
from models.mixers.lookup import Engram, PerLayerEmbedding
from models.mixers.noncausal import TokenMLP
from models.norm import DynamicErf, DynamicTanh, ScaleNorm
from models.position import LearnedPosition
from models.recurrence.decayed import HGRN2, Mamba2
from models.recurrence.delta import DeltaProduct, GatedDeltaNet, KimiDeltaAttention
from models.recurrence.levels import LogLinearMamba2
from models.recurrence.mamba3 import Mamba3
from models.recurrence.mlstm import MLSTM
from models.recurrence.rwkv import RWKV7, RWKVChannelMix
from models.recurrence.scan import RGLRU, Mamba1
from models.recurrence.slstm import SLSTM
from models.recurrence.ttt import TTTLinear
from models.residual.depthwise import MUDD, AttentionResiduals
from models.residual.single import Highway, LayerScale, NormalizedResidual, ReZero
from models.residual.streams import DenseFormer, HyperConnections, ManifoldHyperConnections, UNet
from tests.laws.distributions import Constant, Distribution, Normal, Orthogonal, Uniform, Values, columns, rows, window

WIDTH, LAYER, DEPTH = 256, 1, 4  # of the stream; where the component stands, counted from 0


ZERO, ONE, LECUN, TABLE = Constant(0.0), Constant(1.0), Normal(rows, cut=True), Normal(0.02)

# What is not in a component's own rows below: the field's defaults.
GENERIC: Mapping[str, Distribution] = {r"(.*/)?kernel": LECUN, r"(.*/)?bias": ZERO, r"(.*/)?scale": ONE}
# What a part has, whatever holds it.
PARTS: Mapping[str, Distribution] = {
    r"(.*/)?conv_\d/kernel": Normal(window, cut=True),
    r"(.*/)?(token|type|table|registers)": TABLE,
    r"(head/out|.*head/out)/kernel": TABLE,
    r"scale_\d": ONE,
    r"(up|down)(_in)?|gate": LECUN,
}


@dataclasses.dataclass(frozen=True)
class Reference:
    """The form that is large enough to tell, distributions by a pattern of the parameter's whole path, and where they
    are from.
    """

    form: Component
    first: Mapping[str, Distribution]
    source: str


def rates(low: float) -> Uniform:
    """Logarithms of rates uniform from a number to 16."""
    return Uniform(low, 16.0, np.exp)


def softplus(values: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(values.astype(np.float64)))


STEPS = Uniform(math.log(0.001), math.log(0.1), lambda values: np.log(softplus(values)))


def by_channel(heads: int) -> dict[str, np.ndarray]:
    """Channels in RWKV's three coordinates: c / d, from -1/2 to 1/2 over all, and signed squares within each head."""
    c, k = np.arange(WIDTH), WIDTH // heads
    within = (c % k - (k - 1) / 2) / ((k - 1) / 2)
    return {
        "ramp": c / WIDTH,
        "across": c / (WIDTH - 1),
        "linear": c / (WIDTH - 1) - 0.5,
        "zigzag": within * np.abs(within),
    }


C, LEFT, DEEP = by_channel(4), 1 - LAYER / DEPTH, LAYER / (DEPTH - 1)
RWKV: dict[str, Distribution] = {
    **{
        f"{name}_share": Values(lambda _, p=p: 1 - C["ramp"] ** (p * LEFT))
        for name, p in (("receptance", 0.2), ("decay", 0.9))
    },
    **{
        f"{name}_share": Values(lambda _, p=p: 1 - C["ramp"] ** (p * LEFT))
        for name, p in (("key", 0.7), ("value", 0.7))
    },
    **{
        f"{name}_share": Values(lambda _, p=p: 1 - C["ramp"] ** (p * LEFT))
        for name, p in (("rate", 0.9), ("gate", 0.2))
    },
    "decay_bias": Values(lambda _: -6 + 6 * C["across"] ** (1 + DEEP**0.3) + 0.5 + 2.5 * C["zigzag"]),
    "rate_bias": Values(lambda _: -0.19 + 0.3 * C["zigzag"] + 0.4 * C["linear"]),
    "removed": Values(lambda _: 0.71 - 0.1 * C["linear"]),
    "replaced": Constant(1.02),
    "bonus": Constant(-0.04),
    "norm_scale": Constant(((LAYER + 1) / DEPTH) ** 0.7),
    "norm_bias": ZERO,
    "(receptance|value)/kernel": Orthogonal(1.0),
    "key/kernel": Orthogonal(0.1),
    "(decay|rate|gate)_up/kernel": Orthogonal(0.1),
    "((decay|rate|gate)_down|out)/kernel": ZERO,
}
READ = np.eye(4)[LAYER % 4]  # of the one branch of each block

REFERENCES: Mapping[type, Reference] = {
    Attention: Reference(
        Attention(8, gate=True, weigh=Softmax(sink=True)), {"weigh/sink": ZERO}, "own: no weight is lost to it at first"
    ),
    ValueResidual: Reference(ValueResidual(8), {"own|first": Constant(0.5)}, "arXiv:2410.17897, learnable form"),
    LatentAttention: Reference(LatentAttention(8), {"up_(key|value)": LECUN}, "own: as any matrix"),
    DifferentialAttention: Reference(
        DifferentialAttention(1),
        {"(query|key)_weight": Normal(0.1)},
        "microsoft/unilm Diff-Transformer/multihead_flashdiff_2.py",
    ),
    NativeSparseAttention: Reference(
        NativeSparseAttention(8), {"(key|value)_places": TABLE}, "own: the places as of tokens, matrices as any"
    ),
    ForgettingAttention: Reference(ForgettingAttention(8), {"forget/bias": Constant(4.0)}, "own, said"),
    ShortConvolution: Reference(
        ShortConvolution(bias=True), {}, "own, said: a third of the deviation in state-spaces/mamba"
    ),
    LongConvolution: Reference(LongConvolution(), {"skip": ONE}, "own, said"),
    Mamba1: Reference(
        Mamba1(),
        {
            "log_rates": Values(lambda shape: np.log(np.arange(1, shape[0] + 1))[:, None]),
            "step/kernel": Uniform(lambda shape: -(shape[0] ** -0.5), lambda shape: shape[0] ** -0.5),
            "step/bias": STEPS,
            "skip": ONE,
        },
        "state-spaces/mamba mamba_ssm/modules/mamba_simple.py",
    ),
    Mamba2: Reference(
        Mamba2(128),
        {"log_rate": rates(1.0), "step_bias": STEPS, "skip": ONE},
        "state-spaces/mamba mamba_ssm/modules/mamba2.py",
    ),
    LogLinearMamba2: Reference(
        LogLinearMamba2(128),
        {"log_rate": rates(1.0), "step_bias": STEPS, "skip": ONE, "level_scale": ONE},
        "as Mamba2; fla-org/flash-linear-attention fla/layers/log_linear_mamba2.py",
    ),
    GatedDeltaNet: Reference(
        GatedDeltaNet(192, value_heads=384, expand=3.0),
        {"log_rate": rates(0.0), "step_bias": STEPS},
        "fla-org/flash-linear-attention fla/layers/gated_deltanet.py",
    ),
    KimiDeltaAttention: Reference(
        KimiDeltaAttention(128),
        {"log_rate": rates(1.0), "step_bias": STEPS},
        "fla-org/flash-linear-attention fla/models/kda/modeling_kda.py",
    ),
    DeltaProduct: Reference(
        DeltaProduct(2, 192, expand=0.75),
        {"log_rate": rates(0.0), "step_bias": STEPS},
        "fla-org/flash-linear-attention fla/layers/gated_deltaproduct.py",
    ),
    HGRN2: Reference(
        HGRN2(), {"bound": ZERO}, "fla-org/flash-linear-attention fla/models/hgrn2/modeling_hgrn2.py: l / L"
    ),
    Mamba3: Reference(
        Mamba3(128),
        {"step_bias": STEPS, "(read|write)_bias|skip": ONE},
        "state-spaces/mamba mamba_ssm/modules/mamba3.py",
    ),
    SLSTM: Reference(
        SLSTM(4),
        {
            ".*_kernel": Normal(rows, cut=True),
            ".*_recurrent|(cell|output)_bias": ZERO,
            "forget_bias": Values(
                lambda shape: -(-5 + 12 * (np.arange(shape[1]) / (shape[1] - 1)) ** (0.3 + 1.3 * LAYER / (DEPTH - 1)))
            ),
            "norm_scale": ONE,
        },
        "NX-AI/xlstm xlstm/blocks/slstm/cell.py, bias_init powerlaw_blockdependent",
    ),
    TTTLinear: Reference(
        TTTLinear(8),
        {"inner_kernel|rate/kernel": Normal(0.02), "inner_(norm_)?bias|share": ZERO, "inner_norm_scale": ONE},
        "test-time-training/ttt-lm-jax ttt/models/ttt_layer.py, initializer_range 0.02",
    ),
    MLSTM: Reference(
        MLSTM(8),
        {
            "(input|forget)/kernel": ZERO,
            "input/bias": Constant(-10.0),
            "forget/bias": Values(lambda shape: np.linspace(3, 6, shape[0])),
            "norm_scale": ONE,
        },
        "NX-AI/xlstm-jax xlstm_parallel/blocks/mlstm/cell.py, and the 7B model's igate_bias_init_range",
    ),
    RWKV7: Reference(RWKV7(4), RWKV, "BlinkDL/RWKV-LM RWKV-v7/train_temp/src/model.py, generate_init_weight"),
    RWKVChannelMix: Reference(
        RWKVChannelMix(),
        {
            "share": Values(lambda _: 1 - C["ramp"] ** (LEFT**4)),
            "key/kernel": Orthogonal(1.0),
            "value/kernel": ZERO,
        },
        "BlinkDL/RWKV-LM RWKV-v7/train_temp/src/model.py, RWKV_CMix_x070 and generate_init_weight",
    ),
    RGLRU: Reference(
        RGLRU(4),
        {
            "rate": Uniform(0.9, 0.999, lambda values: np.exp(-8 * softplus(values))),
            "(recurrence|input)_kernel": LECUN,
            "(recurrence|input)_bias": ZERO,
        },
        "arXiv:2402.19427, section 2.4",
    ),
    Experts: Reference(
        Experts(4, router=AuxiliaryLossFree()),
        {"gate|up|down": LECUN, "router/bias": ZERO},
        "arXiv:2408.15664; matrices as any",
    ),
    SoftMoE: Reference(
        SoftMoE(4, 4), {"gate|up|down": LECUN, "keys": Normal(WIDTH**-0.5)}, "google-research/vmoe, soft router"
    ),
    ProductKeyMemory: Reference(
        ProductKeyMemory(keys=32),
        {"halves": Uniform(lambda shape: -columns(shape), columns), "values": Normal(columns)},
        "facebookresearch/XLM xlm/model/memory/memory.py and utils.py",
    ),
    TokenMLP: Reference(
        TokenMLP(64),
        {"up": LECUN, "down": Normal(columns, cut=True), "hidden_bias": ZERO},
        "own: as any matrix, over the tokens",
    ),
    TokenEmbed: Reference(
        TokenEmbed(512, WIDTH, types=2), {"token|type": TABLE}, "google-research/bert, initializer_range"
    ),
    FactorisedEmbed: Reference(
        FactorisedEmbed(512, WIDTH), {"token": TABLE}, "arXiv:1909.11942: google-research/albert"
    ),
    HashedNgramEmbed: Reference(HashedNgramEmbed(512, WIDTH, buckets=64), {"token|grams": TABLE}, "own: as of tokens"),
    PatchEmbed: Reference(PatchEmbed(WIDTH, 2), {"registers": TABLE}, "timm VisionTransformer, of its tokens"),
    TubeletEmbed: Reference(
        TubeletEmbed(WIDTH, 1, 2, registers=1), {"registers": TABLE}, "timm VisionTransformer, of its tokens"
    ),
    QueryEmbed: Reference(QueryEmbed(64, WIDTH), {"query": Normal(1.0)}, "facebookresearch/detr: torch.nn.Embedding"),
    LearnedPosition: Reference(LearnedPosition(64), {"table": TABLE}, "google-research/bert, initializer_range"),
    T5Bias: Reference(T5Bias(), {"table": TABLE}, "own"),
    FIRE: Reference(FIRE(), {"slope": Constant(0.1), "length_scale": ONE}, "arXiv:2310.04418, appendix"),
    CoPE: Reference(CoPE(), {"table": ZERO}, "arXiv:2405.18719, listing"),
    ClassHead: Reference(ClassHead(64), {"out/kernel": TABLE}, "google-research/bert, initializer_range"),
    ValueHead: Reference(ValueHead(64), {"out/kernel": TABLE}, "google-research/bert, initializer_range"),
    BoxHead: Reference(
        BoxHead(64),
        {"(class|box)/kernel": TABLE, "class/bias": Constant(-math.log(99))},
        "arXiv:1708.02002, section 4.1: a prior of 0.01",
    ),
    LogitsHead: Reference(LogitsHead(tied=False, vocab=64, bias=True), {"table": TABLE}, "own: as of tokens"),
    PEER: Reference(
        PEER(keys=32),
        {"halves": Uniform(lambda shape: -columns(shape), columns), "up|down": Normal(columns)},
        "arXiv:2407.04153, algorithm 1: flax.linen.Embed; halves as of ProductKeyMemory",
    ),
    TalkingHeads: Reference(
        TalkingHeads(),
        {"before|after": Uniform(lambda shape: -((3 / shape[0]) ** 0.5), lambda shape: (3 / shape[0]) ** 0.5)},
        "tensorflow/models official/nlp/modeling/layers/talking_heads_attention.py: Glorot-uniform",
    ),
    ScaleNorm: Reference(ScaleNorm(), {"scale": Constant(WIDTH**0.5)}, "arXiv:1910.05895, section 2.2"),
    DynamicTanh: Reference(DynamicTanh(), {"slope": Constant(0.5)}, "arXiv:2503.10622, section 4"),
    DynamicErf: Reference(
        DynamicErf(), {"slope": Constant(0.5), "shift": ZERO}, "zlab-princeton/Derf ViT/dynamic_erf.py"
    ),
    ReZero: Reference(ReZero(), {"alpha": ZERO}, "arXiv:2003.04887, section 3"),
    LayerScale: Reference(LayerScale(), {"scale": Constant(0.1)}, "arXiv:2103.17239, section 2: up to 18 blocks"),
    Highway: Reference(Highway(), {"gate/bias": Constant(-1.0)}, "arXiv:1505.00387, section 2.2: from -1 to -3"),
    NormalizedResidual: Reference(
        NormalizedResidual(), {"alpha": Constant(WIDTH**-0.5)}, "arXiv:2410.01131, section 2.6"
    ),
    HyperConnections: Reference(
        HyperConnections(dynamic=True),
        {
            "read": Values(lambda _: READ),
            "mix": Values(lambda _: np.eye(4)),
            "write": ONE,
            "(read|write|mix)_weight": ZERO,
            "(read|write|mix)_weight_scale": Constant(0.01),
        },
        "arXiv:2409.19606, section 3.2 and algorithm 2",
    ),
    ManifoldHyperConnections: Reference(
        ManifoldHyperConnections(),
        {
            "base": Values(lambda _: [*(2 * READ - 1), *np.zeros(4), *8 * np.eye(4).ravel()]),
            "weight": ZERO,
            "scale": Constant(0.01),
        },
        "arXiv:2512.24880, table 5, of the scale; the others are own, said",
    ),
    DenseFormer: Reference(DenseFormer(), {"weights": ZERO}, "arXiv:2402.02622, section 3: the newest alone"),
    AttentionResiduals: Reference(AttentionResiduals(), {"query": ZERO}, "arXiv:2603.15031"),
    MUDD: Reference(
        MUDD(),
        {"hidden/kernel": Normal(rows), "weights/(kernel|bias)": ZERO},
        "Caiyun-AI/MUDDFormer jax: dynamic_dense_conn1 and 2, dense_proj2.bias",
    ),
    Engram: Reference(
        Engram(buckets=32),
        {"table": TABLE, "kernel": ZERO},
        "the table own: as of tokens; the kernel as arXiv:2601.07372, an identity",
    ),
    PerLayerEmbedding: Reference(PerLayerEmbedding(512), {"table": TABLE}, "own: as of tokens"),
    UNet: Reference(UNet(), {"weight": ZERO}, "own, said"),
    AdaptiveStack: Reference(
        AdaptiveStack(repeats=2), {"tied/halt/bias": ONE}, "tensorflow/tensor2tensor act_halting_bias_init"
    ),
}


def explain(path: str, values: np.ndarray, first: Mapping[str, Distribution]) -> None:
    """Checks a parameter against the row that its path matches, its component's own first.  Raises AssertionError."""
    for pattern, distribution in [*first.items(), *GENERIC.items()]:
        if re.fullmatch(pattern, path):
            try:
                return distribution.explain(values)
            except AssertionError as error:
                raise AssertionError(f"{path} {values.shape} is not {distribution}: {error}") from None
    raise AssertionError(
        f"{path} {values.shape} is neither a kernel, a bias nor a scale; declare its first values in"
        " tests/laws/scales.py"
    )
