"""Forms of models whose blocks not every token passes through."""

from typing import Any

from models.attention.softmax import Attention
from models.depth.block import Block
from models.depth.skipping import MixtureOfDepths
from models.depth.stack import Stack
from models.embed.tokens import TokenEmbed
from models.feedforward import GLU, MLP
from models.head.logits import LogitsHead
from models.position import RoPE
from models.residual.single import PostNorm, PreNorm
from models.transformer import EncoderDecoder

EMBED = TokenEmbed(11, 16)
DECODER = Block(Attention(4, causal=True, position=RoPE()), GLU(2.0), PreNorm(), cross=Attention(2, cross=True))
ENCODER = Block(Attention(4, position=RoPE()), MLP(2.0), PostNorm())
MIXTURE = MixtureOfDepths(Attention(4, position=RoPE()), MLP(2.0), PreNorm(), capacity=0.5)

VARIANTS: dict[type, dict[str, Any]] = {
    EncoderDecoder: {
        "shared": EncoderDecoder(EMBED, Stack(ENCODER, 1), Stack(DECODER, 1), LogitsHead()),
        "apart": EncoderDecoder(EMBED, Stack(ENCODER, 1), Stack(DECODER, 1), None, TokenEmbed(7, 16)),
        "mixture_of_depths": EncoderDecoder(EMBED, Stack((ENCODER, MIXTURE), 1), Stack(DECODER, 1), LogitsHead()),
    },
}
