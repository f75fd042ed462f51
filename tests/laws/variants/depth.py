"""Forms of stacks and models whose blocks not every token passes through."""

from typing import Any

from models.attention.softmax import Attention
from models.depth.adaptive import AdaptiveStack
from models.depth.block import Block
from models.depth.skipping import MixtureOfDepths
from models.depth.stack import Stack
from models.embed.tokens import TokenEmbed
from models.feedforward import GLU, MLP
from models.head.logits import LogitsHead
from models.norm import RMSNorm
from models.position import RoPE
from models.residual.single import PostNorm, PreNorm
from models.residual.streams import HyperConnections
from models.transformer import EncoderDecoder

EMBED = TokenEmbed(11, 16)
DECODER = Block(Attention(4, causal=True, position=RoPE()), GLU(2.0), PreNorm(), cross=Attention(2, cross=True))
ENCODER = Block(Attention(4, position=RoPE()), MLP(2.0), PostNorm())
MIXTURE = MixtureOfDepths(Attention(4, position=RoPE()), MLP(2.0), PreNorm(), capacity=0.5)

HYPER = Block(Attention(4, causal=True), None, HyperConnections(2))
CAUSAL = Block(Attention(4, causal=True), None, PreNorm(RMSNorm()))

VARIANTS: dict[type, dict[str, Any]] = {
    AdaptiveStack: {
        "one_block": AdaptiveStack(CAUSAL, 3),
        "pattern": AdaptiveStack((HYPER, Block(GLU(2.0), None, HyperConnections(2))), 2, prefix=(HYPER,), epsilon=0.3),
    },
    EncoderDecoder: {
        "shared": EncoderDecoder(EMBED, Stack(ENCODER, 1), Stack(DECODER, 1), LogitsHead()),
        "apart": EncoderDecoder(EMBED, Stack(ENCODER, 1), Stack(DECODER, 1), None, TokenEmbed(7, 16)),
        "mixture_of_depths": EncoderDecoder(EMBED, Stack((ENCODER, MIXTURE), 1), Stack(DECODER, 1), LogitsHead()),
    },
}
