"""Training vision transformers from scratch by morphax and by PyTorch, in turn in one run.

    python -m tests.benchmarks.images [--only NAME ...] [--rounds 7] [--json FILE] [--profile FOLDER]

ViT's form (arXiv:2010.11929: a class token, learned positions, pre-norm LayerNorm, biases, GELU) in the widths and
depths of Ti/16 and S/16, on small images, float32, a thousand classes. Both take AdamW with clipping at a global norm
of 1. PyTorch cuts patches by a convolution, does queries, keys and values in one product and attends by
`scaled_dot_product_attention`. Each keeps a process of its own, and in each round one takes steps after the other, so
that the machine's drift falls on both; the first step of a turn, on cold caches, is not timed. The table has tokens a
second, patches and class tokens (medians over rounds), their ratio with its least and greatest, and each process's peak
memory. Ends with 1 where morphax is not `GOAL` times as fast. `--profile` also writes a trace of morphax's step, and
prints the ten dearest operations.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.benchmarks.turns import run_turns

GOAL = 1.2


@dataclasses.dataclass(frozen=True)
class Size:
    """A vision transformer, the side of its square images in pixels, their number, and the steps of a turn."""

    width: int
    depth: int
    heads: int
    patch: int
    side: int
    rows: int
    times: int
    classes: int = 1000
    goal: float = GOAL

    @property
    def length(self) -> int:
        """Patches of an image and its class token."""
        return (self.side // self.patch) ** 2 + 1

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.length * self.rows


SIZES = {
    "Ti/16, 224 pixels": Size(192, 12, 3, 16, 224, 4, 2),
    "S/16, 96 pixels": Size(384, 12, 6, 16, 96, 16, 2),
    "S/16, 224 pixels": Size(384, 12, 6, 16, 224, 2, 2),
}


def draw_batch(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Random images (b, rows, columns, 3) and classes (b,)."""
    chance = np.random.default_rng(0)
    images = chance.standard_normal((size.rows, size.side, size.side, 3)).astype(np.float32)
    return images, chance.integers(0, size.classes, size.rows, dtype=np.int32)


def make_model(size: Size) -> Any:
    """morphax's model."""
    from models import (
        MLP,
        Attention,
        Block,
        ClassHead,
        FirstToken,
        LayerNorm,
        LearnedPosition,
        PatchEmbed,
        PreNorm,
        Stack,
        Transformer,
    )

    embed = PatchEmbed(size.width, size.patch, position=LearnedPosition(size.length))
    block = Block(Attention(size.heads, bias=True), MLP(4.0, bias=True), PreNorm(LayerNorm()))
    return Transformer(embed, Stack(block, size.depth, LayerNorm()), ClassHead(size.classes, FirstToken()))


def start_morphax(size: Size) -> tuple[Callable[[], None], int]:
    """Compiles morphax's step; returns a call that takes one, and the number of parameters."""
    import jax

    from train.engine.compilation import enable_compilation_cache
    from train.engine.step import initialise, make_step
    from train.objectives import Classification
    from train.optimizers import AdamW, Constant
    from train.parallel import Jit

    enable_compilation_cache()
    model = make_model(size)
    images, labels = draw_batch(size)
    batch = {"image": images, "labels": labels}
    params = jax.jit(lambda: model.init(jax.random.key(0), batch)["params"])()
    optimizer = AdamW(Constant(1e-3), decay=0.05, clip=1.0).build(1000, params)
    step = Jit().compile_step(make_step(model, Classification(), optimizer))
    state = jax.jit(lambda params: initialise(params, optimizer, 0))(params)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    del params

    def once() -> None:
        nonlocal state
        state, sums = step(state, batch)
        jax.block_until_ready((state, sums))

    return once, count


def make_torch_model(size: Size) -> Any:
    """PyTorch's model of the same structure and as many parameters."""
    import torch
    from torch import nn

    width, each = size.width, size.width // size.heads

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
            self.enter, self.leave = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, t, _ = x.shape
            query, key, value = self.enter(self.norms[0](x)).view(b, t, 3, size.heads, each).permute(2, 0, 3, 1, 4)
            mixed = nn.functional.scaled_dot_product_attention(query, key, value)
            x = x + self.leave(mixed.transpose(1, 2).reshape(b, t, width))
            return x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut = nn.Conv2d(3, width, size.patch, size.patch)
            self.first = nn.Parameter(torch.zeros(1, 1, width))
            self.place = nn.Parameter(torch.randn(size.length, width) * 0.02)
            self.layers = nn.ModuleList([Layer() for _ in range(size.depth)])
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, size.classes)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            x = self.cut(images).flatten(2).transpose(1, 2)
            x = torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.place
            for layer in self.layers:
                x = layer(x)
            return self.head(self.norm(x[:, 0]))

    return Model()


def start_torch(size: Size) -> tuple[Callable[[], None], int]:
    """PyTorch's step; returns a call that takes one, and the number of parameters."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = make_torch_model(size).train()
    images, labels = (torch.from_numpy(array) for array in draw_batch(size))
    images, labels = images.permute(0, 3, 1, 2).contiguous(), labels.long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)

    def once() -> None:
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()

    return once, sum(parameter.numel() for parameter in model.parameters())


STARTS = {"morphax": start_morphax, "PyTorch": start_torch}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints the table."""
    run_turns("tests.benchmarks.images", __doc__, "Vision transformers from scratch", SIZES, STARTS, arguments, warm=1)


if __name__ == "__main__":
    main()
