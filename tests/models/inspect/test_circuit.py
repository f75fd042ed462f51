"""Circuits that are trained here: scores of attention maps, patched activations and patched paths name the same heads.

Of induction: rows are associative recall, pairs of key and value in a random order, then keys as queries.  A head of
layer 0 moves each key to the next token, its value, and a head of layer 1 looks there for the key of the query.  Elhage
et al. 2021; Olsson et al. 2022, arXiv:2209.11895.  Of indirect objects: Wang et al. 2022, arXiv:2211.00593.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models import Attention, Block, LogitsHead, RMSNorm, RoPE, Stack, TokenEmbed, Transformer
from models.inspect.attention import attention_weights
from models.inspect.causal import ablate, patch_path, recover_shares, subtract_logits
from models.inspect.heads import score_induction, score_previous_token
from models.inspect.intermediates import capture
from train.data.tasks.circuits import IndirectObjects
from train.data.tasks.synthetic import Recall

TASK = Recall(pairs=4, length=16, vocab=24)
KEYS = TASK.vocab // 3
SENTENCES = IndirectObjects(length=16)
STEPS = 400
BLOCK = Block(Attention(2, causal=True, position=RoPE()), None)


def build(vocab: int) -> Any:
    embed = TokenEmbed(vocab, 32, norm=RMSNorm())
    return Transformer(embed, Stack(BLOCK, repeats=2, norm=RMSNorm(), scan=True), LogitsHead())


MODEL, READER = build(TASK.vocab), build(SENTENCES.vocab)


def train(model: Any, task: Any, rows: int) -> tuple[Any, jax.Array]:
    """Parameters, and the accuracy of each step."""
    optimizer = optax.adam(3e-3)

    def loss(params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        logits = model.apply({"params": params}, batch)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        right = (logits.argmax(-1) == batch["labels"]) * batch["weights"]
        return (losses * batch["weights"]).sum() / batch["weights"].sum(), right.sum() / batch["weights"].sum()

    def step(state: Any, batch: Any) -> Any:
        params, inner = state
        (_, accuracy), slope = jax.value_and_grad(loss, has_aux=True)(params, batch)
        change, inner = optimizer.update(slope, inner, params)
        return (optax.apply_updates(params, change), inner), accuracy

    @jax.jit
    def run(batches: Any) -> Any:
        params = model.init(jax.random.key(0), {"tokens": batches["tokens"][0]})["params"]
        (params, _), accuracies = jax.lax.scan(step, (params, optimizer.init(params)), batches)
        return params, accuracies

    made = task.make(np.random.default_rng(0), STEPS * rows, task.length)
    return run({name: value.reshape(STEPS, rows, -1) for name, value in made.items()})


@pytest.mark.slow
def test_scores_and_patches_name_the_same_heads() -> None:
    params, accuracies = train(MODEL, TASK, 32)
    assert accuracies[-20:].mean() > 0.95
    batch = TASK.make(np.random.default_rng(1), 64, TASK.length)
    tokens, row = batch["tokens"], np.arange(64)
    query = batch["weights"].argmax(1)  # the first of the row
    key, value = tokens[row, query], batch["labels"][row, query]
    unused = np.array([next(k for k in range(KEYS) if k not in each) for each in tokens.tolist()])
    broken = np.where((tokens == key[:, None]) & (np.arange(TASK.length) < 2 * TASK.pairs), unused[:, None], tokens)
    of_keys = np.where(tokens < KEYS, tokens, 100 + np.arange(TASK.length))  # nothing else repeats

    def metric(logits: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(logits[row, query])[row, value].mean()

    @jax.jit
    def explain(params: Any) -> Any:
        clean, corrupted = {"tokens": jnp.asarray(tokens)}, {"tokens": jnp.asarray(broken)}
        weights = attention_weights(MODEL, params, clean)
        values, looks = "stack.*.mixer.value", "stack.*.mixer.weigh"
        ids = jnp.asarray(of_keys)
        return (
            {path: (score_previous_token(each), score_induction(each, ids)) for path, each in weights.items()},
            recover_shares(MODEL, params, clean, corrupted, metric, [values], axis=1),
            recover_shares(MODEL, params, clean, corrupted, metric, [looks], axis=1),
            ablate(MODEL, params, clean, metric, [looks], axis=1),
        )

    scores, moved, looked, lost = jax.tree.map(np.asarray, explain(params))
    before, induction = scores["stack.0.mixer"][0], scores["stack.1.mixer"][1]
    assert moved["stack.0.mixer.value"].argmax() == before.argmax()
    assert looked["stack.1.mixer.weigh"].argmax() == lost["stack.1.mixer.weigh"].argmax() == induction.argmax()
    assert min(moved["stack.0.mixer.value"].max(), looked["stack.1.mixer.weigh"].max(), induction.max()) > 0.9
    assert lost["stack.0.mixer.weigh"].argmax() == before.argmax()
    assert max(np.abs(moved["stack.1.mixer.value"]).max(), np.abs(looked["stack.0.mixer.weigh"]).max()) < 0.1


@pytest.mark.slow
def test_the_head_that_names_the_indirect_object_is_that_of_the_direct_path() -> None:
    params, accuracies = train(READER, SENTENCES, 64)
    assert accuracies[-20:].mean() > 0.95
    pairs = SENTENCES.make_pairs(np.random.default_rng(1), 64)
    clean, corrupted = ({"tokens": jnp.asarray(batch["tokens"])} for batch in (pairs.clean, pairs.corrupted))
    differ = subtract_logits(pairs.at, pairs.right, pairs.wrong)

    @jax.jit
    def explain(params: Any) -> Any:
        paths = [f"stack.{layer}.mixer.out:input" for layer in range(2)]  # (b t, h k)
        new = capture(READER, params, corrupted, *paths)

        def send(path: str, head: int) -> jax.Array:
            mine = jnp.arange(32) // 16 == head
            outputs = patch_path(
                READER, params, clean, {path: lambda old: jnp.where(mine, new[path], old)}, ["stack"], paths
            )
            return differ(outputs).mean()

        plain = [differ(READER.apply({"params": params}, batch)).mean() for batch in (clean, corrupted)]
        lost = ablate(READER, params, clean, lambda logits: differ(logits).mean(), ["stack.*.mixer.weigh"], axis=1)
        return plain, jnp.array([[send(path, head) for head in range(2)] for path in paths]), lost

    (whole, none), sent, lost = jax.tree.map(np.asarray, explain(params))
    assert whole > 3
    assert abs(none) < 0.5
    effects = (whole - sent) / whole
    head = effects[1].argmax()
    assert effects[1, head] > 0.8
    assert np.abs(np.delete(effects.ravel(), 2 + head)).max() < 0.2
    assert lost["stack.1.mixer.weigh"].argmax() == head
