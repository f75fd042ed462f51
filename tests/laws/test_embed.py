"""Laws of what enters and leaves a model besides tokens."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Context, Decoding, LogitsHead, Stack, TokenEmbed, Transformer
from models.decoding.sampling import generate, padded
from models.embed.patches import PatchEmbed, TubeletEmbed
from models.embed.tokens import FactorisedEmbed, HashedNgramEmbed
from models.head.logits import MultiTokenHead
from models.head.pool import EveryToken
from tests.laws.components import BLOCK, normal, parameters, tokens
from train.objectives import NextTokens


def embedded(embed: Any, batch: Any, ctx: Context | None = None) -> np.ndarray:
    return np.asarray(embed.apply({"params": parameters(embed)}, batch, ctx or Context.of(batch))[0])


def test_patches_and_tubelets_are_a_product_of_each_box_in_order() -> None:
    embed, image = PatchEmbed(16, 2, registers=0), normal(1, 1, 4, 6, 3)
    dense = parameters(embed)["patch"]
    boxes = [
        image[0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].reshape(-1)
        for row in range(2)
        for column in range(3)
    ]
    expected = np.asarray(jnp.stack(boxes) @ dense["kernel"] + dense["bias"])
    np.testing.assert_allclose(embedded(embed, {"image": image})[0], expected, atol=1e-5)
    video = TubeletEmbed(16, 2, 2)
    clip = normal(2, 1, 4, 2, 4, 3)
    dense = parameters(video)["tubelet"]
    boxes = [
        clip[0, 2 * frame : 2 * frame + 2, :, 2 * column : 2 * column + 2].reshape(-1)
        for frame in range(2)
        for column in range(2)
    ]
    np.testing.assert_allclose(
        embedded(video, {"video": clip})[0], np.asarray(jnp.stack(boxes) @ dense["kernel"] + dense["bias"]), atol=1e-5
    )


def test_registers_stand_before_the_patches() -> None:
    with_two, image = PatchEmbed(16, 2, registers=2), normal(1, 2, 4, 6, 3)
    params, found = parameters(with_two), embedded(PatchEmbed(16, 2, registers=2), {"image": image})
    np.testing.assert_allclose(found[1, :2], params["registers"])
    assert found.shape == (2, 2 + 6, 16)


def test_boxes_that_do_not_tile_are_refused() -> None:
    with pytest.raises(ValueError, match="do not tile"):
        PatchEmbed(16, 4).init(jax.random.key(0), {"image": jnp.zeros((1, 6, 6, 3))}, Context())


GRAMS = HashedNgramEmbed(11, 16, order=3, buckets=50)


def law_grams_see_what_stands_before_and_no_more(embed: Any) -> None:
    base = tokens(1, 1, 8)
    other = base.at[0, 3].set((base[0, 3] + 1) % 11)
    moved = np.abs(embedded(embed, {"tokens": base}) - embedded(embed, {"tokens": other})).max(-1)[0] > 1e-6
    assert moved.tolist() == [False] * 3 + [True] * 3 + [False] * 2


def test_grams_reach_as_far_back_as_their_order() -> None:
    law_grams_see_what_stands_before_and_no_more(GRAMS)
    with pytest.raises(AssertionError):
        law_grams_see_what_stands_before_and_no_more(HashedNgramEmbed(11, 16, order=2, buckets=50))


def test_grams_do_not_reach_over_the_start_of_a_segment() -> None:
    row = tokens(1, 1, 8)
    packed = embedded(GRAMS, {"tokens": row, "segments": jnp.array([[1, 1, 1, 2, 2, 2, 2, 2]])})
    alone = [embedded(GRAMS, {"tokens": part}) for part in (row[:, :3], row[:, 3:])]
    np.testing.assert_allclose(packed, np.concatenate(alone, 1), atol=1e-6)


def test_grams_decode_as_in_one_pass() -> None:
    row, variables = tokens(1, 2, 6), {"params": parameters(GRAMS)}
    parts, cache = [], {}
    for first, count in ((0, 3), (3, 1), (4, 1), (5, 1)):
        ctx = Context(decoding=Decoding(first, 6, first == 0))
        (x, _), cache = GRAMS.apply(
            {**variables, **cache}, {"tokens": row[:, first : first + count]}, ctx, mutable=["cache"]
        )
        parts.append(x)
    np.testing.assert_allclose(np.concatenate(parts, 1), embedded(GRAMS, {"tokens": row}), atol=1e-6)


@pytest.mark.slow
def test_a_factorised_embedding_with_a_head_of_its_own_generates() -> None:
    model = Transformer(FactorisedEmbed(11, 16, 4), Stack(BLOCK, 1), LogitsHead(tied=False, vocab=11))
    found = np.stack(list(generate(model, parameters(model), padded([[1, 2], [3]]), 4)))
    assert found.shape == (4, 2)
    with pytest.raises(ValueError, match="set tied=False and vocab"):
        Transformer(FactorisedEmbed(11, 16, 4), Stack(BLOCK, 1), LogitsHead()).init(
            jax.random.key(0), {"tokens": tokens(1, 1, 4)}
        )


def test_capped_logits_are_bounded_and_near_the_plain_ones_at_zero() -> None:
    hidden, table = 0.01 * normal(1, 1, 4, 16), normal(2, 11, 16)
    plain, capped = (
        np.asarray(LogitsHead(cap=cap).apply({}, scale * hidden, Context(), table))
        for cap, scale in ((None, 1), (3.0, 1))
    )
    np.testing.assert_allclose(plain, capped, atol=1e-3)
    assert np.abs(np.asarray(LogitsHead(cap=3.0).apply({}, 1e4 * hidden, Context(), table))).max() <= 3.0


def test_several_tokens_ahead_are_their_cross_entropies_added() -> None:
    logits, row = normal(1, 1, 6, 3, 11), tokens(2, 1, 6)
    chances = np.asarray(jax.nn.log_softmax(logits), np.float64)[0]
    parts = [-sum(chances[i, n, row[0, i + n + 1]] for i in range(6 - n - 1)) for n in range(3)]
    sums = NextTokens()(logits, {"tokens": row})
    # five tokens are next ones
    assert float(sums["loss"].value / sums["loss"].weight) == pytest.approx(sum(parts) / 5, rel=1e-5)
    assert float(sums["next_token_loss"].value / sums["next_token_loss"].weight) == pytest.approx(
        parts[0] / 5, rel=1e-5
    )


def test_a_head_for_several_tokens_trains_on_all_and_decodes_the_first() -> None:
    model = Transformer(TokenEmbed(11, 16), Stack(BLOCK, 1), MultiTokenHead(2))
    params = parameters(model)
    whole = np.asarray(model.apply({"params": params}, {"tokens": jnp.asarray([[1, 2, 3]])}))
    assert whole.shape == (1, 3, 2, 11)
    assert int(next(generate(model, params, padded([[1, 2, 3]]), 1))[0]) == int(whole[0, -1, 0].argmax())


def test_every_token_counts_from_the_start_or_from_the_end() -> None:
    hidden = normal(1, 2, 8, 16)
    for pool, places in (
        (EveryToken(), range(8)),
        (EveryToken(3, 1), (1, 4, 7)),
        (EveryToken(1, -3), (5, 6, 7)),
        (EveryToken(2, -3), (5, 7)),
    ):
        np.testing.assert_array_equal(pool.apply({}, hidden, Context()), hidden[:, jnp.array(places)])
    with pytest.raises(ValueError, match="first is below step"):
        EveryToken(2, 2)
