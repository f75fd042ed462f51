"""Transformer structures as values: pure functions of (params, batch) in Flax linen.

Shape letters, everywhere: b batch, t time, s source, d width, h heads, k head width, f hidden, e experts, n streams or
examples a row, l layers, v vocabulary, c classes.
"""

from models.activation import elu_plus_one, gelu, gelu_tanh, relu, silu, squared_relu
from models.attention.differential import DifferentialAttention
from models.attention.forgetting import ForgettingAttention
from models.attention.latent import LatentAttention
from models.attention.native import NativeSparseAttention
from models.attention.path import PaTHAttention
from models.attention.relative import FIRE, ALiBi, CoPE, T5Bias
from models.attention.sharing import SharedAttention, ValueResidual
from models.attention.softmax import Attention
from models.attention.sparse import BlockRouting
from models.attention.weigh import Sigmoid, Softmax, Softpick, TalkingHeads
from models.backend.platform import compile_correctly
from models.context import Context, Decoding, Memory
from models.decoding.beam import beam
from models.decoding.sampling import Sampler, generate, padded
from models.depth.adaptive import AdaptiveStack
from models.depth.block import Block
from models.depth.skipping import MixtureOfDepths
from models.depth.stack import Stack, scanned, unrolled
from models.dropout import Dropout
from models.embed.features import FeatureEmbed, QueryEmbed, TrajectoryEmbed
from models.embed.patches import ConvEmbed, PatchEmbed, TubeletEmbed
from models.embed.tokens import FactorisedEmbed, HashedNgramEmbed, TokenEmbed
from models.experts.memory import PEER, ProductKeyMemory
from models.experts.noncausal import ExpertChoice, SoftMoE
from models.experts.routed import Experts
from models.experts.routing import AuxiliaryLossFree, HashRouter, SoftmaxRouter
from models.families import bert
from models.families.folder import load_hf, save_hf
from models.feedforward import GLU, MLP, LowRank, Monarch
from models.head.decoder import LastTokenDecoder
from models.head.logits import LogitsHead, MultiTokenHead, Transform
from models.head.pool import EveryToken, FirstToken, MeanPool
from models.head.values import BoxHead, ClassHead, ValueHead
from models.mixers.axial import Along
from models.mixers.combine import Concat, Sum
from models.mixers.convolution import GatedConvolution, LongConvolution, ShortConvolution
from models.mixers.lookup import Engram, PerLayerEmbedding
from models.mixers.noncausal import Fourier, Pooling, TokenMLP
from models.norm import DynamicErf, DynamicTanh, HeadNorm, L2Norm, LayerNorm, RMSNorm, ScaleNorm
from models.parametrization import initialised
from models.position import (
    AxialRoPE,
    InterpolatedRoPE,
    LearnedPosition,
    NTKRoPE,
    PartialRoPE,
    RoPE,
    SinusoidalPosition,
    YaRN,
)
from models.recurrence.decayed import HGRN2, GatedLinearAttention, LinearAttention, Mamba2, Retention
from models.recurrence.delta import DeltaNet, DeltaProduct, GatedDeltaNet, KimiDeltaAttention
from models.recurrence.levels import LogLinearMamba2
from models.recurrence.mamba3 import Mamba3
from models.recurrence.mlstm import MLSTM
from models.recurrence.rwkv import RWKV7, RWKVChannelMix
from models.recurrence.scan import RGLRU, Mamba1, MinGRU, MinLSTM
from models.recurrence.slstm import SLSTM
from models.recurrence.ttt import TTTLinear
from models.residual.depthwise import MUDD, AttentionResiduals
from models.residual.single import (
    DeepNorm,
    Highway,
    LayerScale,
    NormalizedResidual,
    PostNorm,
    PreNorm,
    ReZero,
    Sandwich,
    ScaledNorm,
    StochasticDepth,
)
from models.residual.streams import DenseFormer, HyperConnections, ManifoldHyperConnections, UNet
from models.structure import part, replace
from models.surgery.growth import deepened
from models.transformer import EncoderDecoder, Transformer

compile_correctly()

__all__ = [
    # Models
    "EncoderDecoder",
    "Transformer",
    # Depth
    "Block",
    "MixtureOfDepths",
    "Stack",
    "AdaptiveStack",
    "scanned",
    "unrolled",
    # Attention
    "Attention",
    "DifferentialAttention",
    "ForgettingAttention",
    "LatentAttention",
    "NativeSparseAttention",
    "PaTHAttention",
    "SharedAttention",
    "ValueResidual",
    # Weights from attention scores
    "Sigmoid",
    "Softmax",
    "Softpick",
    "TalkingHeads",
    # Biases of attention scores by distance, and blocks chosen by score
    "ALiBi",
    "BlockRouting",
    "CoPE",
    "FIRE",
    "T5Bias",
    # Layers with a state, parallel in time
    "DeltaNet",
    "DeltaProduct",
    "GatedDeltaNet",
    "GatedLinearAttention",
    "HGRN2",
    "KimiDeltaAttention",
    "LinearAttention",
    "MLSTM",
    "Mamba1",
    "LogLinearMamba2",
    "Mamba2",
    "Mamba3",
    "MinGRU",
    "MinLSTM",
    "RGLRU",
    "RWKV7",
    "Retention",
    "SLSTM",
    "TTTLinear",
    # Other mixers of tokens, and layers over axes and in parallel
    "Along",
    "Concat",
    "Engram",
    "Fourier",
    "GatedConvolution",
    "LongConvolution",
    "PerLayerEmbedding",
    "Pooling",
    "ShortConvolution",
    "Sum",
    "TokenMLP",
    # Feedforwards
    "GLU",
    "LowRank",
    "MLP",
    "Monarch",
    "RWKVChannelMix",
    # Experts
    "ExpertChoice",
    "Experts",
    "PEER",
    "ProductKeyMemory",
    "SoftMoE",
    # Routers of experts
    "AuxiliaryLossFree",
    "HashRouter",
    "SoftmaxRouter",
    # Norms
    "DynamicErf",
    "DynamicTanh",
    "HeadNorm",
    "L2Norm",
    "LayerNorm",
    "RMSNorm",
    "ScaleNorm",
    # Positions
    "AxialRoPE",
    "InterpolatedRoPE",
    "LearnedPosition",
    "NTKRoPE",
    "PartialRoPE",
    "RoPE",
    "SinusoidalPosition",
    "YaRN",
    # Activations
    "elu_plus_one",
    "gelu",
    "gelu_tanh",
    "relu",
    "silu",
    "squared_relu",
    # Dropout
    "Dropout",
    # Residual connections
    "AttentionResiduals",
    "DeepNorm",
    "DenseFormer",
    "Highway",
    "HyperConnections",
    "LayerScale",
    "MUDD",
    "ManifoldHyperConnections",
    "NormalizedResidual",
    "PostNorm",
    "PreNorm",
    "ReZero",
    "Sandwich",
    "ScaledNorm",
    "StochasticDepth",
    "UNet",
    # Embeddings
    "ConvEmbed",
    "FactorisedEmbed",
    "FeatureEmbed",
    "HashedNgramEmbed",
    "PatchEmbed",
    "QueryEmbed",
    "TokenEmbed",
    "TrajectoryEmbed",
    "TubeletEmbed",
    # Pools
    "EveryToken",
    "FirstToken",
    "MeanPool",
    # Heads
    "BoxHead",
    "ClassHead",
    "LastTokenDecoder",
    "LogitsHead",
    "MultiTokenHead",
    "Transform",
    "ValueHead",
    # The context that a layer reads
    "Context",
    "Decoding",
    "Memory",
    # Structures as values
    "initialised",
    "part",
    "replace",
    # Decoding
    "Sampler",
    "beam",
    "generate",
    "padded",
    # Pretrained weights
    "bert",
    "load_hf",
    "save_hf",
    # Surgery
    "deepened",
]
