"""Laws of whole models and of what stands at their ends: embeds, pools, heads; packed rows and memory."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import (
    Attention,
    Block,
    BoxHead,
    Context,
    EncoderDecoder,
    EveryToken,
    LayerNorm,
    LearnedPosition,
    LogitsHead,
    MeanPool,
    MultiTokenHead,
    Stack,
    TokenEmbed,
    Transform,
    Transformer,
)
from models.contracts import Batch, Head, Model, Pool
from models.laws.ends import (
    LENGTHS,
    examples,
    law_packed_rows_give_the_outputs_of_the_examples_alone,
    law_pooled_packed_rows_equal_the_examples_alone,
    pack,
)
from models.structure import replace
from tests.laws.components import BERT, EMBED, VARIANTS, VOCAB, WIDTH, forms, normal, parameters, tokens


@pytest.mark.parametrize("model", forms(Model))
def test_packed_rows_give_the_outputs_of_the_same_examples_alone(model: Any) -> None:
    law_packed_rows_give_the_outputs_of_the_examples_alone(model)


EVERY = LogitsHead | MultiTokenHead | BoxHead | EveryToken  # an output for every token, of no one example
POOLED = [form for form in forms(Pool, Head) if not isinstance(form.values[0], EVERY)]


@pytest.mark.parametrize("component", POOLED)
def test_a_pool_gives_each_packed_example_what_it_gives_it_alone(component: Any) -> None:
    law_pooled_packed_rows_equal_the_examples_alone(component)


def law_logits_are_products_with_the_table(head: Any, table: Any) -> None:
    hidden, embedding = normal(1, 2, 3, WIDTH), normal(2, VOCAB, WIDTH)
    params = parameters(head)
    logits = head.apply({"params": params}, hidden, Context(), embedding)
    np.testing.assert_allclose(
        logits, np.asarray(hidden) @ np.asarray(table(params, embedding)).T + params.get("bias", 0), atol=1e-4
    )


def test_a_mean_over_tokens_is_that_of_the_examples_own_tokens_even_of_one() -> None:
    hidden, starts = normal(1, 1, 6, 4), jnp.array([[0, 1, 3]])
    ctx = Context(segments=jnp.array([[1, 2, 2, 3, 3, 0]]), starts=starts)
    found = np.asarray(MeanPool().apply({}, hidden, ctx))
    expected = [np.asarray(hidden)[0, start:stop].mean(0) for start, stop in ((0, 1), (1, 3), (3, 5))]
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    alone = np.asarray(MeanPool().apply({}, hidden, Context(segments=jnp.array([[1, 0, 0, 0, 0, 0]]))))
    np.testing.assert_allclose(alone, hidden[:, 0], atol=1e-6)


def test_logits_are_products_with_the_embedding_where_tied_and_with_their_own_table_where_not() -> None:
    law_logits_are_products_with_the_table(LogitsHead(), lambda params, embedding: embedding)
    law_logits_are_products_with_the_table(LogitsHead(bias=True), lambda params, embedding: embedding)
    law_logits_are_products_with_the_table(LogitsHead(tied=False), lambda params, embedding: params["table"])
    assert "table" not in parameters(LogitsHead())


def test_a_transform_before_the_logits_is_applied_first() -> None:
    head, hidden, embedding = LogitsHead(transform=Transform()), normal(1, 2, 3, WIDTH), normal(2, VOCAB, WIDTH)
    params = parameters(head)
    moved = Transform().apply({"params": params["transform"]}, hidden, Context())
    np.testing.assert_allclose(
        np.asarray(head.apply({"params": params}, hidden, Context(), embedding)),
        np.asarray(LogitsHead().apply({}, moved, Context(), embedding)),
        atol=1e-5,
    )


def test_logits_without_a_table_are_refused() -> None:
    with pytest.raises(ValueError, match="no table"):
        LogitsHead().apply({}, normal(1, 1, 2, WIDTH), Context(), None)


def law_embedding_is_the_sum_of_its_rows(embed: Any) -> None:
    batch = pack(examples((3, 5)))
    params = jax.device_get(parameters(embed))
    x, ctx = embed.apply({"params": params}, batch, Context.of(batch))
    expected = params["token"][np.asarray(batch["tokens"])] + params["type"][np.asarray(batch["types"])]
    expected += params["position"]["table"][np.asarray(batch["positions"])]
    np.testing.assert_allclose(x, expected, atol=1e-6)
    np.testing.assert_array_equal(ctx.positions, batch["positions"])


FULL: Any = TokenEmbed(VOCAB, WIDTH, types=2, position=LearnedPosition(12))


def test_an_embedding_adds_the_rows_of_token_type_and_position() -> None:
    law_embedding_is_the_sum_of_its_rows(FULL)


def test_an_embedding_without_types_and_positions_in_the_batch_takes_type_zero_and_counts_from_zero() -> None:
    batch = {"tokens": tokens(1, 2, 5)}
    given = {"types": jnp.zeros((2, 5), jnp.int32), "positions": jnp.arange(5)[None]}
    variables = {"params": parameters(FULL)}
    x, ctx = FULL.apply(variables, batch, Context())
    again, _ = FULL.apply(variables, batch | given, Context.of(given))
    np.testing.assert_array_equal(np.asarray(x), np.asarray(again))
    np.testing.assert_array_equal(np.asarray(ctx.positions), np.arange(5)[None])


def law_decoder_sees_only_its_own_memory(model: Any) -> None:
    params, batch = parameters(model), pack(examples())
    apply = jax.jit(lambda source: model.apply({"params": params}, {**batch, "source": source}))
    start = np.asarray(apply(batch["source"]))[0]
    # a source token of example 2
    changed = np.asarray(apply(batch["source"].at[0, 3].set((batch["source"][0, 3] + 1) % 7)))[0]
    first, second = slice(0, LENGTHS[0]), slice(LENGTHS[0], sum(LENGTHS))
    np.testing.assert_array_equal(start[first], changed[first])
    assert (np.abs(start[second] - changed[second]).max(-1) > 1e-6).all()


@pytest.mark.parametrize("model", [pytest.param(form, id=name) for name, form in VARIANTS[EncoderDecoder].items()])
def test_a_decoder_reads_the_memory_of_its_own_example_only(model: Any) -> None:
    law_decoder_sees_only_its_own_memory(model)


def law_training_and_evaluation_differ_by_dropout_alone(model: Any) -> None:
    params, batch = parameters(model), pack(examples())

    def apply(key: int, train: bool) -> np.ndarray:
        return np.asarray(model.apply({"params": params}, batch, train=train, rngs={"dropout": jax.random.key(key)}))

    np.testing.assert_array_equal(apply(0, False), apply(1, False))
    np.testing.assert_array_equal(apply(0, True), apply(0, True))
    assert np.abs(apply(0, True) - apply(1, True)).max() > 1e-3


def test_evaluation_draws_nothing_and_training_follows_its_key() -> None:
    law_training_and_evaluation_differ_by_dropout_alone(BERT)


class Counting(nn.Module):
    """Broken embed: counts places in the row, whatever the batch says."""

    @nn.compact
    def __call__(self, batch: Batch, ctx: Context) -> tuple[jax.Array, Context]:
        x, ctx = EMBED.copy(name="embed")(batch, ctx)
        return LearnedPosition(12)(x, jnp.arange(x.shape[1])[None]), ctx


class Leaking(nn.Module):
    """Broken layer: adds the mean of the row, other examples included."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return x.mean(1, keepdims=True) + jnp.zeros_like(x)


class Mingling(nn.Module):
    """Broken cross-attention: the mean of the whole memory."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        assert ctx.memory is not None
        return ctx.memory.x.mean(1, keepdims=True) + jnp.zeros_like(x)


class RowMean(nn.Module):
    """Broken pool: the mean of the row, for each example."""

    @nn.compact
    def __call__(self, hidden: jax.Array, ctx: Context) -> jax.Array:
        mean = hidden.mean(1)
        return mean if ctx.starts is None else jnp.repeat(mean[:, None], ctx.starts.shape[1], 1)


def with_mixer(layer: Any) -> Transformer:
    return Transformer(EMBED, Stack(Block(layer, None), 1))


BROKEN = [
    (law_packed_rows_give_the_outputs_of_the_examples_alone, (with_mixer(Leaking()),)),
    (law_packed_rows_give_the_outputs_of_the_examples_alone, (replace(with_mixer(Attention(2)), "embed", Counting()),)),
    (law_pooled_packed_rows_equal_the_examples_alone, (RowMean(),)),
    (law_logits_are_products_with_the_table, (LogitsHead(tied=False), lambda params, embedding: embedding)),
    (law_embedding_is_the_sum_of_its_rows, (replace(FULL, "norm", LayerNorm()),)),
    (
        law_decoder_sees_only_its_own_memory,
        (replace(VARIANTS[EncoderDecoder]["shared"], "decoder.block.cross", Mingling()),),
    ),
    (law_training_and_evaluation_differ_by_dropout_alone, (with_mixer(Attention(2)),)),
]


@pytest.mark.parametrize(("law", "given"), BROKEN)
def test_broken_components_fail(law: Any, given: Any) -> None:
    with pytest.raises(AssertionError):
        law(*given)
