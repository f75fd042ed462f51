"""Training language models from scratch by morphax and by PyTorch, in turn in one run.

    python -m tests.benchmarks.language [--only NAME ...] [--rounds 7] [--json FILE] [--profile FOLDER]

Four sizes: nanoGPT's form (pre-norm LayerNorm, learned positions, GELU, tied head) with 4 layers of 128, 6 of 384 and
12 of 768, and Llama's (RoPE, RMSNorm, SwiGLU, grouped heads, untied head) with 8 of 512. Both take AdamW with clipping
at a global norm of 1, float32. PyTorch does queries, keys and values in one product and attends by
`scaled_dot_product_attention`. Each keeps a process of its own, and in each round one takes steps after the other, so
that the machine's drift falls on both; the first step of a turn, on cold caches, is not timed. The table has tokens a
second (medians over rounds), their ratio with its least and greatest, and each process's peak memory. Ends with 1 where
morphax is not `GOAL` times as fast.

`--profile` also writes a trace of morphax's step, and prints the ten dearest operations.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from tests.benchmarks.turns import run_turns

Precision = Literal["float32", "bfloat16"]
GOAL = 1.2


@dataclasses.dataclass(frozen=True)
class Size:
    """A language model, the rows and tokens of its batch, and the steps of a turn."""

    width: int
    depth: int
    heads: int
    length: int
    rows: int
    vocab: int
    times: int
    kv_heads: int | None = None  # of Llama's form; None for nanoGPT's
    goal: float = GOAL

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.length * self.rows

    @property
    def hidden(self) -> int:
        """Width of the feedforward: 4 times the model's, or as many parameters in a gated one."""
        return 4 * self.width if self.kv_heads is None else 8 * self.width // 3 // 64 * 64


SIZES = {
    "4 x 128": Size(128, 4, 4, 64, 12, 65, 24),
    "6 x 384": Size(384, 6, 6, 256, 8, 256, 4),
    "12 x 768": Size(768, 12, 12, 1024, 1, 50_304, 1),
    "Llama, 8 x 512": Size(512, 8, 8, 512, 4, 8_000, 2, 2),
}


def draw_tokens(size: Size) -> np.ndarray:
    """Random tokens, with one more in each row to predict."""
    return np.random.default_rng(0).integers(0, size.vocab, (size.rows, size.length + 1), dtype=np.int32)


def make_model(size: Size) -> Any:
    """morphax's model."""
    from models import (
        GLU,
        MLP,
        Attention,
        Block,
        LayerNorm,
        LearnedPosition,
        LogitsHead,
        PreNorm,
        RMSNorm,
        RoPE,
        Stack,
        TokenEmbed,
        Transformer,
    )

    if size.kv_heads is None:
        block = Block(Attention(size.heads, causal=True), MLP(4), PreNorm(LayerNorm(bias=False)))
        embed = TokenEmbed(size.vocab, size.width, position=LearnedPosition(size.length))
        return Transformer(embed, Stack(block, size.depth, LayerNorm(bias=False)), LogitsHead(tied=True))
    mixer = Attention(size.heads, kv_heads=size.kv_heads, causal=True, position=RoPE())
    block = Block(mixer, GLU(size.hidden / size.width), PreNorm(RMSNorm()))
    stack = Stack(block, size.depth, RMSNorm())
    return Transformer(TokenEmbed(size.vocab, size.width), stack, LogitsHead(tied=False))


def make_step_of(size: Size, precision: Precision = "float32") -> tuple[Any, Callable[[], Any], dict[str, np.ndarray]]:
    """morphax's training step, what makes its state, and a batch."""
    import jax

    from train.engine.step import initialise, make_step
    from train.objectives import NextToken
    from train.optimizers import AdamW, Constant

    model, rows = make_model(size), draw_tokens(size)[:, :-1]
    batch = {
        "tokens": rows,
        "segments": np.ones_like(rows),
        "positions": np.tile(np.arange(size.length), (size.rows, 1)),
    }

    def draw() -> Any:
        return model.init(jax.random.key(0), batch)["params"]

    optimizer = AdamW(Constant(1e-3), b2=0.95, decay=0.1, clip=1.0).build(1000, jax.eval_shape(draw))
    step = make_step(model, NextToken(), optimizer, precision)
    return step, lambda: initialise(draw(), optimizer, 0), batch


def start_morphax(size: Size, precision: Precision = "float32") -> tuple[Callable[[], None], int]:
    """Compiles morphax's step; returns a call that takes one, and the number of parameters."""
    import jax

    from train.engine.compilation import enable_compilation_cache
    from train.parallel import Jit

    enable_compilation_cache()
    function, begin, batch = make_step_of(size, precision)
    step = Jit().compile_step(function)
    state = jax.jit(begin)()
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))

    def once() -> None:
        nonlocal state
        state, sums = step(state, batch)
        jax.block_until_ready((state, sums))

    return once, count


def make_torch_model(size: Size) -> Any:
    """PyTorch's model of the same structure and as many parameters."""
    import torch
    from torch import nn

    width, heads, kv_heads = size.width, size.heads, size.kv_heads or size.heads
    each, llama = width // heads, size.kv_heads is not None
    norm: Callable[[], nn.Module] = (
        functools.partial(nn.RMSNorm, width, eps=1e-6) if llama else functools.partial(nn.LayerNorm, width, bias=False)
    )

    def turn(x: torch.Tensor) -> torch.Tensor:
        rates = 10_000.0 ** (-torch.arange(0, each, 2, device=x.device) / each)
        angles = torch.arange(x.shape[-2], device=x.device)[:, None] * rates
        cosine, sine = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
        left, right = x.chunk(2, -1)
        return x * cosine + torch.cat([-right, left], -1) * sine

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList([norm(), norm()])
            self.enter = nn.Linear(width, width + 2 * kv_heads * each, bias=False)
            self.leave = nn.Linear(width, width, bias=False)
            self.up = nn.Linear(width, size.hidden * (2 if llama else 1), bias=False)
            self.down = nn.Linear(size.hidden, width, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, t, _ = x.shape
            parts = self.enter(self.norms[0](x)).split([width, kv_heads * each, kv_heads * each], -1)
            query, key, value = (part.view(b, t, -1, each).transpose(1, 2) for part in parts)
            if llama:
                query, key = turn(query), turn(key)
            mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=llama)
            x = x + self.leave(mixed.transpose(1, 2).reshape(b, t, width))
            hidden = self.up(self.norms[1](x))
            if llama:
                gate, hidden = hidden.chunk(2, -1)
                return x + self.down(nn.functional.silu(gate) * hidden)
            return x + self.down(nn.functional.gelu(hidden))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(size.vocab, width)
            self.place = None if llama else nn.Embedding(size.length, width)
            self.layers = nn.ModuleList([Layer() for _ in range(size.depth)])
            self.norm = norm()
            self.head = nn.Linear(width, size.vocab, bias=False)
            if not llama:
                self.head.weight = self.embed.weight
            for parameter in self.parameters():
                nn.init.normal_(parameter, std=0.02) if parameter.dim() > 1 else nn.init.ones_(parameter)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            x = self.embed(tokens)
            if self.place is not None:
                x = x + self.place.weight
            for layer in self.layers:
                x = layer(x)
            return self.head(self.norm(x))

    return Model()


def start_torch(
    size: Size, device: str = "cpu", precision: Precision = "float32", compiled: bool = False
) -> tuple[Callable[[], None], int]:
    """PyTorch's step; returns a call that takes one, and the number of parameters.

    bfloat16 is by autocast, and `compiled` by `torch.compile`.
    """
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = make_torch_model(size).train().to(device)
    forward = torch.compile(model) if compiled else model
    rows = torch.from_numpy(draw_tokens(size)).long().to(device)
    tokens, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    tokens, targets = tokens, torch.cat([tokens[:, 1:], torch.full_like(targets[:, :1], -100)], 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)

    def once() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = forward(tokens)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()

    return once, sum(parameter.numel() for parameter in model.parameters())


STARTS = {"morphax": start_morphax, "PyTorch": start_torch}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints the table."""
    run_turns("tests.benchmarks.language", __doc__, "Training from scratch", SIZES, STARTS, arguments, warm=1)


if __name__ == "__main__":
    main()
