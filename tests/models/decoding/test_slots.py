"""Slots decode several texts at once as `generate` decodes each alone, whenever each begins."""

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
from models.decoding.sampling import Sampler, generate, padded
from models.decoding.slots import (
    Draws,
    admit,
    choose_lengths,
    count_room,
    decode,
    draw,
    open_slots,
    pad_prompt,
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
    ([7], 5, Sampler(0.7, min_p=0.05), 3),
]
LENGTHS = (2, 5)


def alone(model: Model, params: Tree, prompt: list[int], steps: int, sampler: Sampler, seed: int) -> list[int]:
    return [int(token[0]) for token in generate(model, params, padded([prompt]), steps, sampler, seed)]


def fill(draws: Draws, slot: int, sampler: Sampler) -> None:
    settings = (sampler.temperature, sampler.top_k or 0, sampler.top_p or 1.0, sampler.min_p or 0.0)
    for values, value in zip(draws, settings, strict=True):
        values[slot] = value


def together(model: Model, params: Tree) -> list[list[int]]:
    """The tokens of TEXTS from two slots."""
    room = count_room(LENGTHS, 12)
    slots, draws = open_slots(model, params, 2, room), Draws.fill(2)
    waiting, texts, held = list(range(len(TEXTS))), [[] for _ in TEXTS], dict[int, int]()
    while waiting or held:
        for slot in range(2):
            if slot not in held and waiting:
                held[slot] = waiting.pop(0)
                prompt, _, sampler, seed = TEXTS[held[slot]]
                slots = admit(model, params, slots, pad_prompt(prompt, LENGTHS), slot, np.uint32(seed), room)
                fill(draws, slot, sampler)
        busy = np.array([slot in held for slot in range(2)])
        tokens, slots = decode(model, params, slots, draws, busy, room)
        for slot, text in list(held.items()):
            texts[text].append(int(tokens[slot]))
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
    lengths = choose_lengths(100)
    assert lengths == (16, 64, 100)
    used = [pad_prompt([0] * count, lengths)["tokens"].shape[1] + 100 - count for count in range(1, 101)]
    assert max(used) == count_room(lengths, 100)
