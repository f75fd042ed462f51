"""Slots decode several texts at once as `generate` decodes each alone, whenever each begins and in how many parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import (
    Attention,
    Block,
    GatedDeltaNet,
    LogitsHead,
    PreNorm,
    RMSNorm,
    RoPE,
    Stack,
    TokenEmbed,
    Transformer,
)
from models.contracts import Model, Tree
from models.decoding.packing import transpose_kernels
from models.decoding.sampling import Sampler, generate, padded
from models.decoding.slots import (
    Draws,
    admit,
    begin_prompts,
    choose_lengths,
    count_room,
    cut_prompt,
    decode,
    draw,
    extend_prompts,
    open_slots,
    resize,
)
from tests.models.decoding.recomputed import sharpened

BLOCK = Block(Attention(2, causal=True, position=RoPE()), residual=PreNorm(RMSNorm()))
WINDOWED = Block(Attention(2, kv_heads=1, causal=True, window=3))
RECURRENT = Block(GatedDeltaNet(2), residual=PreNorm(RMSNorm()))
STACKS = {
    "loop": Stack((BLOCK, WINDOWED), 1),
    "scan": Stack((BLOCK, WINDOWED), 2, scan=True),
    "tied": Stack(BLOCK, 2, tied=True),
    "recurrent": Stack(RECURRENT, 2),
}
TEXTS = [  # prompt, tokens, sampler and seed; the third begins once the first has ended
    ([1, 2, 3, 4], 3, Sampler(), 0),
    ([5, 6], 9, Sampler(1.5, top_k=4, top_p=0.9), 7),
    ([8, 9, 1, 3, 7, 2, 4, 6, 5, 10, 2, 1, 9], 5, Sampler(0.7, min_p=0.05), 3),
]
LENGTHS = (2, 5)


def alone(model: Model, params: Tree, prompt: list[int], steps: int, sampler: Sampler, seed: int) -> list[int]:
    return [int(token[0]) for token in generate(model, params, padded([prompt]), steps, sampler, seed)]


def fill(draws: Draws, slot: int, sampler: Sampler) -> None:
    settings = (sampler.temperature, sampler.top_k or 0, sampler.top_p or 1.0, sampler.min_p or 0.0)
    for values, value in zip(draws, settings, strict=True):
        values[slot] = value


def together(model: Model, params: Tree) -> list[list[int]]:
    """The tokens of TEXTS from two slots, up to two tokens a dispatch."""
    room = count_room(LENGTHS, 18)
    slots, draws = open_slots(model, params, 2, room), Draws.fill(2)
    waiting, texts, held = list(range(len(TEXTS))), [[] for _ in TEXTS], dict[int, int]()
    while waiting or held:
        for slot in range(2):
            if slot not in held and waiting:
                held[slot] = waiting.pop(0)
                prompt, _, sampler, seed = TEXTS[held[slot]]
                first, *parts = cut_prompt(prompt, LENGTHS)
                (logits, cache), index = begin_prompts(model, params, first, room), np.array([first["tokens"].size])
                for part in parts:
                    logits, cache = extend_prompts(model, params, cache, part, index, room)
                    index = index + part["tokens"].size
                slots = admit(slots, np.array([slot]), logits, cache, index, np.array([len(prompt)]), np.array([seed]))
                fill(draws, slot, sampler)
        busy = np.array([slot in held for slot in range(2)])
        count = min(2, *(TEXTS[text][1] - len(texts[text]) for text in held.values()))
        size = max(held) + 1
        slots, draws_now = resize(slots, size), Draws(*(values[:size] for values in draws))
        given = transpose_kernels(params) if size == 1 else params
        tokens, slots = decode(model, given, slots, draws_now, busy[:size], count, room, packed=size == 1)
        slots = resize(slots, 2)
        for slot, text in list(held.items()):
            texts[text] += tokens[:count, slot].tolist()
            if len(texts[text]) == TEXTS[text][1]:
                del held[slot]
    return texts


@pytest.mark.represented_by("loop")
@pytest.mark.parametrize("name", STACKS)
def test_texts_in_slots_are_those_of_each_alone(name: str) -> None:
    model = Transformer(TokenEmbed(11, 16), STACKS[name], LogitsHead())
    params = sharpened(model)
    expected = [alone(model, params, *text) for text in TEXTS]
    assert together(model, params) == expected


def test_tokens_are_drawn_as_a_sampler_draws_them() -> None:
    logits = 3 * jax.random.normal(jax.random.key(1), (4, 50))
    samplers = [Sampler(), Sampler(0.8), Sampler(1.0, top_k=3, top_p=0.5), Sampler(2.0, min_p=0.2)]
    draws = Draws.fill(4)
    for slot, sampler in enumerate(samplers):
        fill(draws, slot, sampler)
    for seed in range(20):
        keys = jax.random.split(jax.random.key(seed), 4)
        expected = [sampler(logits[row][None], keys[row])[0] for row, sampler in enumerate(samplers)]
        np.testing.assert_array_equal(draw(logits, keys, draws), jnp.stack(expected))


def test_a_cache_has_room_for_every_text_with_its_padding() -> None:
    lengths = choose_lengths(40)
    assert lengths == (16, 40)
    used: list[int] = []
    for count in range(1, 101):
        parts = cut_prompt(range(count), lengths)
        tokens, segments = (np.concatenate([part[name][0] for part in parts]) for name in ("tokens", "segments"))
        np.testing.assert_array_equal(tokens[segments > 0], np.arange(count))
        assert {part["tokens"].shape[1] for part in parts[1:]} <= {40}
        used.append(len(tokens) + 100 - count)
    assert max(used) == count_room(lengths, 100)
