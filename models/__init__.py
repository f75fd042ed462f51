"""Transformer structures as values: pure functions of (params, batch) in Flax linen.

Shape letters, everywhere: b batch, t time, s source, d width, h heads, k head width, f hidden, e experts, n streams or examples
a row, l layers, v vocabulary, c classes.
"""

from models.activation import elu_plus_one, gelu, gelu_tanh, relu, silu, squared_relu
from models.attention import Attention
from models.axial import Along
from models.backend import compile_correctly
from models.block import Block
from models.combine import Concat, Sum
from models.context import Context, Decoding, Memory
from models.convolution import GatedConvolution, LongConvolution, ShortConvolution
from models.depth import MixtureOfDepths
from models.differential import DifferentialAttention
from models.dropout import Dropout
from models.embed import (
    ConvEmbed,
    FactorisedEmbed,
    FeatureEmbed,
    HashedNgramEmbed,
    PatchEmbed,
    QueryEmbed,
    TokenEmbed,
    TrajectoryEmbed,
    TubeletEmbed,
)
from models.experts import ExpertChoice, Experts, ProductKeyMemory, SoftMoE
from models.families import bert
from models.feedforward import GLU, MLP, LowRank, Monarch
from models.forgetting import ForgettingAttention
from models.generate import Sampler, beam, generate, padded
from models.growth import deepened
from models.head import BoxHead, ClassHead, EveryToken, FirstToken, LogitsHead, MeanPool, MultiTokenHead, Transform, ValueHead
from models.interop import load_hf, save_hf
from models.latent import LatentAttention
from models.mixing import Fourier, Pooling, TokenMLP
from models.norm import DynamicTanh, HeadNorm, L2Norm, LayerNorm, RMSNorm, ScaleNorm
from models.parametrization import initialised
from models.position import AxialRoPE, InterpolatedRoPE, LearnedPosition, NTKRoPE, PartialRoPE, RoPE, SinusoidalPosition, YaRN
from models.recurrence.decayed import GatedLinearAttention, LinearAttention, Mamba2, Retention
from models.recurrence.delta import DeltaNet, GatedDeltaNet, KimiDeltaAttention
from models.recurrence.mlstm import MLSTM
from models.recurrence.rwkv import RWKV7, RWKVChannelMix
from models.recurrence.scan import RGLRU, Mamba1, MinGRU, MinLSTM
from models.relative import FIRE, ALiBi, CoPE, T5Bias
from models.residual import (
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
from models.routing import AuxiliaryLossFree, HashRouter, SoftmaxRouter
from models.sharing import SharedAttention, ValueResidual
from models.sparse import BlockRouting
from models.stack import Stack, scanned, unrolled
from models.streams import DenseFormer, HyperConnections, ManifoldHyperConnections, UNet
from models.structure import part, replace
from models.transformer import EncoderDecoder, Transformer
from models.weigh import Sigmoid, Softmax, Softpick

compile_correctly()

__all__ = [
    "ALiBi",
    "Along",
    "Attention",
    "AuxiliaryLossFree",
    "AxialRoPE",
    "Block",
    "BlockRouting",
    "BoxHead",
    "ClassHead",
    "CoPE",
    "Concat",
    "Context",
    "ConvEmbed",
    "Decoding",
    "DeepNorm",
    "DeltaNet",
    "DenseFormer",
    "DifferentialAttention",
    "Dropout",
    "DynamicTanh",
    "EncoderDecoder",
    "EveryToken",
    "ExpertChoice",
    "Experts",
    "FIRE",
    "FactorisedEmbed",
    "FeatureEmbed",
    "FirstToken",
    "ForgettingAttention",
    "Fourier",
    "GLU",
    "GatedConvolution",
    "GatedDeltaNet",
    "GatedLinearAttention",
    "HashRouter",
    "HashedNgramEmbed",
    "HeadNorm",
    "Highway",
    "HyperConnections",
    "InterpolatedRoPE",
    "KimiDeltaAttention",
    "L2Norm",
    "LatentAttention",
    "LayerNorm",
    "LayerScale",
    "LearnedPosition",
    "LinearAttention",
    "LogitsHead",
    "LongConvolution",
    "LowRank",
    "MLP",
    "MLSTM",
    "Mamba1",
    "Mamba2",
    "ManifoldHyperConnections",
    "MeanPool",
    "Memory",
    "MinGRU",
    "MinLSTM",
    "MixtureOfDepths",
    "Monarch",
    "MultiTokenHead",
    "NTKRoPE",
    "NormalizedResidual",
    "PartialRoPE",
    "PatchEmbed",
    "Pooling",
    "PostNorm",
    "PreNorm",
    "ProductKeyMemory",
    "QueryEmbed",
    "RGLRU",
    "RMSNorm",
    "RWKV7",
    "RWKVChannelMix",
    "ReZero",
    "Retention",
    "RoPE",
    "Sampler",
    "Sandwich",
    "ScaleNorm",
    "ScaledNorm",
    "SharedAttention",
    "ShortConvolution",
    "Sigmoid",
    "SinusoidalPosition",
    "SoftMoE",
    "Softmax",
    "Softpick",
    "SoftmaxRouter",
    "Stack",
    "StochasticDepth",
    "Sum",
    "T5Bias",
    "TokenEmbed",
    "TokenMLP",
    "TrajectoryEmbed",
    "Transform",
    "Transformer",
    "TubeletEmbed",
    "UNet",
    "ValueHead",
    "ValueResidual",
    "YaRN",
    "beam",
    "bert",
    "deepened",
    "elu_plus_one",
    "gelu",
    "gelu_tanh",
    "generate",
    "initialised",
    "load_hf",
    "padded",
    "part",
    "relu",
    "replace",
    "save_hf",
    "scanned",
    "silu",
    "squared_relu",
    "unrolled",
]
