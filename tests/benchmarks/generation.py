"""Greedy decoding by morphax and by `transformers`, in turn in one run.

    python -m tests.benchmarks.generation [--only NAME ...] [--rounds 7] [--json FILE] [--profile FOLDER]

Llama's form (RoPE, RMSNorm, SwiGLU, untied head), random parameters, float32: 6 layers of 384 over 8,000 tokens with
batches of 1, 8 and 32 prompts of 32 tokens and of one of 1,024, and 12 layers of 768 over 32,000.  Both keep their keys
and values; `transformers` is `LlamaForCausalLM.generate`.  Each keeps a process of its own, and in each round one
decodes after the other.  The table has tokens a second (medians over rounds), their ratio with its least and greatest,
and each process's peak memory, which in the largest is that of drawing the parameters.  A second table has how many
passes a second the memory allows, since each reads all parameters.  A third has what a pass over foretold tokens takes,
as a multiple of the time of a token, so that a draft pays that foretells more on average, and a token in bfloat16.
Ends with 1 where morphax is not as many times as fast as its goal.
`--profile` also writes a trace of morphax's decoding, and prints the ten dearest operations.
"""

import dataclasses
import functools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tests.benchmarks.turns import run_turns


@dataclasses.dataclass(frozen=True)
class Size:
    """A language model, the prompts that it is given, how many tokens are to follow, and the goal."""

    width: int
    depth: int
    heads: int
    vocab: int
    batch: int
    prompt: int
    steps: int
    goal: float
    times: int = 1  # calls of a turn

    @property
    def tokens(self) -> int:
        """Tokens that are decoded at once for all prompts."""
        return self.batch * self.steps

    @property
    def hidden(self) -> int:
        """Width of the feedforward."""
        return 8 * self.width // 3 // 64 * 64

    @property
    def read(self) -> int:
        """Parameters that every token reads: kernels and the head."""
        return self.depth * self.width * (4 * self.width + 3 * self.hidden) + self.width * self.vocab


SIZES = {
    "6 x 384, 1": Size(384, 6, 6, 8_000, 1, 32, 128, 3.0),
    "6 x 384, 8": Size(384, 6, 6, 8_000, 8, 32, 128, 3.0),
    "6 x 384, 32": Size(384, 6, 6, 8_000, 32, 32, 128, 2.0),
    "6 x 384, 1 after 1,024": Size(384, 6, 6, 8_000, 1, 1024, 64, 3.0),
    "12 x 768, 1": Size(768, 12, 12, 32_000, 1, 32, 64, 3.0),
}
FORETOLD = 2, 4, 8
HALF = -1  # for a token in bfloat16


def draw_prompts(size: Size) -> np.ndarray:
    """Random tokens."""
    return np.random.default_rng(0).integers(3, size.vocab, (size.batch, size.prompt), dtype=np.int32)


def make_model(size: Size) -> tuple[Any, Any, dict[str, Any]]:
    """morphax's model, its parameters and the prompts."""
    import jax

    from models import GLU, Attention, Block, LogitsHead, PreNorm, RMSNorm, RoPE, Stack, TokenEmbed, Transformer
    from train.engine.compilation import enable_compilation_cache

    enable_compilation_cache()
    block = Block(
        Attention(size.heads, causal=True, position=RoPE()), GLU(size.hidden / size.width), PreNorm(RMSNorm())
    )
    model = Transformer(TokenEmbed(size.vocab, size.width), Stack(block, size.depth, RMSNorm()), LogitsHead(tied=False))
    batch: dict[str, Any] = {"tokens": draw_prompts(size)}
    return model, jax.jit(lambda: model.init(jax.random.key(0), batch)["params"])(), batch


def start_morphax(size: Size) -> tuple[Callable[[], None], int]:
    """Compiles morphax's decoding; returns a call that decodes, and the number of parameters."""
    import jax

    from models.decoding.sampling import generate

    model, params, batch = make_model(size)

    def once() -> None:
        for token in generate(model, params, batch, size.steps):
            np.asarray(token)

    return once, sum(leaf.size for leaf in jax.tree.leaves(params))


def start_transformers(size: Size) -> tuple[Callable[[], None], int]:
    """The same by `transformers`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = LlamaConfig(
        vocab_size=size.vocab,
        hidden_size=size.width,
        intermediate_size=size.hidden,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    model: Any = LlamaForCausalLM(config).eval()
    prompts = torch.from_numpy(draw_prompts(size)).long()

    def once() -> None:
        with torch.no_grad():
            found = model.generate(
                prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=size.steps, do_sample=False
            )
        assert found.shape[1] == size.prompt + size.steps

    return once, sum(parameter.numel() for parameter in model.parameters())


STARTS = {"morphax": start_morphax, "transformers": start_transformers}


def measure_passes(name: str, rounds: int) -> dict[int, float]:
    """The median time of a pass by its number of foretold tokens, over that of a token without a draft.

    That of `HALF` is the time of a token in bfloat16.
    """
    from models.decoding.sampling import generate
    from models.decoding.speculative import Lookup, speculate
    from train.precision import cast

    size = SIZES[name]
    model, params, batch = make_model(size)

    def plain(params: Any = params) -> Iterator[Any]:
        return (np.asarray(token) for token in generate(model, params, batch, size.steps))

    def pass_over(count: int) -> Iterator[Any]:
        return speculate(model, params, batch, size.steps, Lookup(count))

    half = cast(params, "bfloat16")
    runs = {0: plain, HALF: lambda: plain(half)} | {count: functools.partial(pass_over, count) for count in FORETOLD}
    spent: dict[int, list[float]] = {count: [] for count in runs}
    for turn in range(rounds + 1):
        for count, once in runs.items():
            stream = once()
            next(stream)  # the prompt
            began = time.perf_counter()
            passes = len(list(stream))
            if turn:  # the first compiles
                spent[count].append((time.perf_counter() - began) / passes)
    return {count: statistics.median(times) / statistics.median(spent[0]) for count, times in spent.items() if count}


def measure_more(chosen: Sequence[str], rounds: int) -> dict[str, Any]:
    """Measures and prints what passes over foretold tokens take, of sizes of one row."""
    from tests.benchmarks.measure import measure_memory, report

    speed = measure_memory()
    limits = {name: speed / (4 * SIZES[name].read) for name in chosen}
    report(
        ("model, batch", "parameters read a token", "passes a second at most"),
        [(name, f"{SIZES[name].read:,}", f"{limit:,.0f}") for name, limit in limits.items()],
        f"What reading parameters allows, at {speed / 1e9:.1f} GB/s of all cores",
    )
    passes = {name: measure_passes(name, rounds) for name in chosen if SIZES[name].batch == 1}
    if passes:
        report(
            ("model, batch", "in bfloat16", *(f"{count} foretold" for count in FORETOLD)),
            [(name, *(f"{ratio:.2f}" for ratio in found.values())) for name, found in passes.items()],
            "A token in bfloat16 and a pass over foretold tokens, in times of a token",
        )
    return {"passes": passes, "limits": limits}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints the table."""
    run_turns("tests.benchmarks.generation", __doc__, "Greedy decoding", SIZES, STARTS, arguments, measure_more)


if __name__ == "__main__":
    main()
