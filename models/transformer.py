"""Assembly: an embed, a stack and a head make a model."""

import dataclasses

import flax.linen as nn

from models.context import Context, Decoding, Memory
from models.contracts import Batch, Embed, Head, Tree
from models.depth.stack import Stack
from models.embed.tokens import TokenEmbed
from models.parametrization import Parametrization, base_of
from models.structure import separate


class Transformer(nn.Module):
    """head(stack(embed(batch))).  If `head` is None the output is the hidden states (b, t, d).

    `batch` is a mapping of arrays; see `Context.of` for the keys that describe it, and the embed and head for theirs.
    With `parametrization` "mup" what was tuned at base_width and base_depth holds at any: see `models.parametrization`.
    """

    embed: Embed = TokenEmbed()
    stack: Stack = Stack()
    head: Head | None = None
    parametrization: Parametrization = "standard"
    base_width: int = 256
    base_depth: int = 2

    def __post_init__(self) -> None:
        base_of(self)
        separate(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, batch: Batch, train: bool = False, decoding: Decoding | None = None) -> Tree:
        x, ctx = self.embed(batch, Context.of(batch, train, decoding, base_of(self)))
        x = self.stack(x, ctx)
        return x if self.head is None else self.head(x, ctx, getattr(self.embed, "table", None))


class EncoderDecoder(nn.Module):
    """head(decoder(embed(tokens), memory)) with memory = encoder(embed(source)).  arXiv:1706.03762.

    The batch has `source` (b, s) and `source_segments` beside the decoder's `tokens` (b, t), or what `source_embed`
    reads, such as `image`; one embedding serves both unless that is given.  Blocks of the decoder need
    `cross=Attention(cross=True)`.
    """

    embed: Embed = TokenEmbed()
    encoder: Stack = Stack()
    decoder: Stack = Stack()
    head: Head | None = None
    source_embed: Embed | None = None
    parametrization: Parametrization = "standard"
    base_width: int = 256
    base_depth: int = 2

    def __post_init__(self) -> None:
        base_of(self)
        separate(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, batch: Batch, train: bool = False, decoding: Decoding | None = None) -> Tree:
        if decoding is not None and not decoding.start:
            memory = self.get_variable("cache", "memory")
        else:
            rest = {
                name: value
                for name, value in batch.items()
                if name not in ("tokens", "segments", "positions", "starts")
            }
            source = {name.removeprefix("source_"): value for name, value in rest.items() if name != "source"}
            if self.source_embed is None or "source" in batch:
                source["tokens"] = batch["source"]
            x, ctx = (self.source_embed or self.embed)(source, Context.of(source, train, None, base_of(self)))
            memory = Memory(self.encoder(x, ctx), ctx.segments)
            if decoding is not None:
                self.put_variable("cache", "memory", memory)
        x, ctx = self.embed(
            batch, dataclasses.replace(Context.of(batch, train, decoding, base_of(self)), memory=memory)
        )
        x = self.decoder(x, ctx)
        return x if self.head is None else self.head(x, ctx, getattr(self.embed, "table", None))
