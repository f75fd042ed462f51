"""Texts of many clients in slots: each is what `generate` gives it alone, also if its prompt is computed in parts."""

import asyncio
import dataclasses
import math

from models import Attention, Block, GatedDeltaNet, LogitsHead, PreNorm, RMSNorm, RoPE, Stack, TokenEmbed, Transformer
from models.decoding.sampling import Sampler, generate, padded
from tests.models.decoding.recomputed import sharpened
from train.use.serving.batching import Queue
from train.use.serving.generation import Generation, Generator

PART, CONTEXT = 64, 230
MIXERS = Attention(2, causal=True, position=RoPE()), GatedDeltaNet(2)
BLOCKS = tuple(Block(mixer, residual=PreNorm(RMSNorm())) for mixer in MIXERS)
MODEL = Transformer(TokenEmbed(11, 16), Stack(BLOCKS, 1), LogitsHead())
Texts = dict[str, tuple[list[int], int, Sampler]]
TEXTS: Texts = {  # prompt, tokens and sampler
    "short": ([1, 2, 3], 40, Sampler()),
    "long": ([(7 * index) % 11 for index in range(3 * PART + 5)], 12, Sampler(0.8, top_k=5)),
    "whole parts": ([(3 * index) % 11 for index in range(2 * PART)], 9, Sampler()),
    "last": ([4] * 20, 2, Sampler()),
}
Events = list[tuple[str, int | None | BaseException]]


@dataclasses.dataclass(eq=False)
class Noted(Generation):
    """A generation that notes what it is sent, among what others are."""

    name: str = ""
    events: Events = dataclasses.field(default_factory=list)

    def send(self, value: int | None | BaseException) -> None:
        self.events.append((self.name, value))


def serve(generator: Generator, queue: Queue, texts: Texts) -> Events:
    events: Events = []

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        for seed, (name, (prompt, most, sampler)) in enumerate(texts.items()):
            job = Noted(math.inf, loop.create_future(), prompt=prompt, most=most, sampler=sampler, seed=seed)
            job.name, job.events = name, events
            queue.put([job])
        queue.close()
        await loop.run_in_executor(None, generator.run)

    asyncio.run(ask())
    return events


def test_a_prompt_barely_longer_than_a_part_is_compiled_at_the_start(compilations: list[str]) -> None:
    params = sharpened(MODEL)
    queue = Queue(1)
    generator = Generator(MODEL, queue, 1, PART + 20, lambda: params, lambda drawn, busy: None)
    generator.warm()
    compilations.clear()
    assert len(serve(generator, queue, {"only": ([1] * (PART + 9), 2, Sampler())})) == 3
    assert compilations == []


def test_long_prompts_come_in_parts_between_the_tokens_of_others(compilations: list[str]) -> None:
    params = sharpened(MODEL)
    queue = Queue(len(TEXTS))
    generator = Generator(MODEL, queue, 3, CONTEXT, lambda: params, lambda drawn, busy: None)
    assert generator.lengths[-1] == PART
    generator.warm()
    compilations.clear()
    events = serve(generator, queue, TEXTS)
    assert compilations == []
    for seed, (name, (prompt, most, sampler)) in enumerate(TEXTS.items()):
        alone = [int(token[0]) for token in generate(MODEL, params, padded([prompt]), most, sampler, seed)]
        assert [value for each, value in events if each == name] == [*alone, None]
    first = [name for name, _ in events].index("long")
    assert sum(name == "short" for name, _ in events[:first]) == 4, "a token after each part"
