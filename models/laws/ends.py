"""Laws of whole models and of what stands at their ends: embeds, pools, heads."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.context import Context
from models.laws.inputs import VOCAB, WIDTH, normal, parameters, tokens
from models.laws.verdict import require, require_close

LENGTHS, SOURCES = (5, 5), (3, 3)  # alike, so that both examples run in one program


def examples(lengths: tuple[int, ...] = LENGTHS, sources: tuple[int, ...] = SOURCES) -> list[dict[str, jax.Array]]:
    """Examples, each a batch of its own, without positions, segments and starts."""
    return [
        {"tokens": tokens(i, 1, t), "types": tokens(10 + i, 1, t, below=2), "source": tokens(20 + i, 1, s, below=7)}
        for i, (t, s) in enumerate(zip(lengths, sources, strict=True))
    ]


def packed(parts: list[dict[str, jax.Array]], padding: int = 2) -> dict[str, jax.Array]:
    """One row that holds them all and ends with padding."""
    row = {name: jnp.concatenate([part[name][0] for part in parts] + [jnp.zeros(padding, jnp.int32)])[None] for name in parts[0]}
    for prefix, name in (("", "tokens"), ("source_", "source")):
        lengths = [part[name].shape[1] for part in parts]
        segments = np.concatenate([np.full(length, index + 1) for index, length in enumerate(lengths)] + [np.zeros(padding, int)])
        row[f"{prefix}segments"] = jnp.asarray(segments[None])
        row[f"{prefix}positions"] = jnp.asarray(np.concatenate([np.arange(length) for length in (*lengths, padding)])[None])
    row["starts"] = jnp.asarray(np.cumsum([0, *(part["tokens"].shape[1] for part in parts)])[None, : len(parts)])
    return row


def law_packed_rows_give_the_outputs_of_the_examples_alone(model: Any) -> None:
    """A row that packs examples gives each the outputs that it has in a row of its own."""
    params, parts = parameters(model), examples()
    apply = jax.jit(lambda batch: model.apply({"params": params}, batch))
    row, alone = np.asarray(apply(packed(parts)))[0], [np.asarray(apply(part))[0] for part in parts]
    if alone[0].ndim == 2:  # an output for each token
        require_close(row[: sum(LENGTHS)], np.concatenate(alone), 2e-5)
    else:
        require_close(row, np.stack(alone), 2e-5)


def law_pooled_packed_rows_equal_the_examples_alone(component: Any) -> None:
    """A pool, or a head with one, gives each example of a packed row what it gives it alone: (1, n, ...) and (1, ...)."""
    hidden, ctx = [normal(length, 1, length, WIDTH) for length in (3, 5)], Context.of(packed(examples((3, 5))))
    rest = [normal(4, VOCAB, WIDTH)] if hasattr(component, "pool") else []
    apply = functools.partial(component.apply, {"params": parameters(component)})
    row = apply(jnp.concatenate([*hidden, normal(9, 1, 2, WIDTH)], 1), ctx, *rest)
    alone = [apply(one, Context(), *rest) for one in hidden]
    require(row.shape[:2] == (1, 2), f"a row of two examples gave shape {row.shape}; (1, 2, ...) was expected")
    require(alone[0].shape == (1, row.shape[-1]), f"an example alone gave shape {alone[0].shape}; (1, {row.shape[-1]}) was expected")
    require_close(row[0], np.concatenate(alone), 1e-5)
