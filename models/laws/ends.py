"""Laws of whole models and of what stands at their ends: embeds, pools, heads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from models.context import Context
from models.contracts import Head, kind_of
from models.head.chunked import compute_logits
from models.laws.inputs import VOCAB, WIDTH, Component, batch, normal, parameters, tokens
from models.laws.verdict import NotTestedError, require, require_close

LENGTHS, SOURCES = (5, 5), (3, 3)  # alike, so that both examples run in one program


def examples(lengths: tuple[int, ...] = LENGTHS, sources: tuple[int, ...] = SOURCES) -> list[dict[str, jax.Array]]:
    """Examples, each a batch of its own, without positions, segments and starts."""
    return [
        {"tokens": tokens(i, 1, t), "types": tokens(10 + i, 1, t, below=2), "source": tokens(20 + i, 1, s, below=7)}
        for i, (t, s) in enumerate(zip(lengths, sources, strict=True))
    ]


def pack(parts: list[dict[str, jax.Array]], padding: int = 2) -> dict[str, jax.Array]:
    """One row that holds them all and ends with padding."""
    row = {
        name: jnp.concatenate([part[name][0] for part in parts] + [jnp.zeros(padding, jnp.int32)])[None]
        for name in parts[0]
    }
    for prefix, name in (("", "tokens"), ("source_", "source")):
        lengths = [part[name].shape[1] for part in parts]
        segments = np.concatenate(
            [np.full(length, index + 1) for index, length in enumerate(lengths)] + [np.zeros(padding, int)]
        )
        row[f"{prefix}segments"] = jnp.asarray(segments[None])
        row[f"{prefix}positions"] = jnp.asarray(
            np.concatenate([np.arange(length) for length in (*lengths, padding)])[None]
        )
    row["starts"] = jnp.asarray(np.cumsum([0, *(part["tokens"].shape[1] for part in parts)])[None, : len(parts)])
    return row


def law_packed_rows_give_the_outputs_of_the_examples_alone(model: Component) -> None:
    """A row that packs examples gives each the outputs that it has in a row of its own."""
    params, parts = parameters(model), examples()
    apply = jax.jit(lambda batch: model.apply({"params": params}, batch))
    row, alone = np.asarray(apply(pack(parts)))[0], [np.asarray(apply(part))[0] for part in parts]
    if alone[0].ndim == 2:  # an output for each token
        require_close(row[: sum(LENGTHS)], np.concatenate(alone), 2e-5)
    else:
        require_close(row, np.stack(alone), 2e-5)


def law_pooled_packed_rows_equal_the_examples_alone(component: Component) -> None:
    """A pool, or a head with one, gives the examples of a packed row what it gives them alone: (1, n, ...)."""
    hidden, ctx = [normal(length, 1, length, WIDTH) for length in (3, 5)], Context.of(pack(examples((3, 5))))
    rest = [normal(4, VOCAB, WIDTH)] if hasattr(component, "pool") else []
    apply = functools.partial(component.apply, {"params": parameters(component)})
    row = apply(jnp.concatenate([*hidden, normal(9, 1, 2, WIDTH)], 1), ctx, *rest)
    alone = [apply(x, Context(), *rest) for x in hidden]
    require(row.shape[:2] == (1, 2), f"a row of two examples gave shape {row.shape}; (1, 2, ...) was expected")
    require(
        alone[0].shape == (1, row.shape[-1]),
        f"an example alone gave shape {alone[0].shape}; (1, {row.shape[-1]}) was expected",
    )
    require_close(row[0], np.concatenate(alone), 1e-5)


def law_packed_examples_give_what_they_give_alone(component: Component) -> None:
    """A pool or a head gives the examples of a packed row, or their tokens, what it gives them alone."""
    lengths = (3, 5)
    hidden, ctx = [normal(length, 1, length, WIDTH) for length in lengths], Context.of(pack(examples(lengths)))
    rest = [normal(4, VOCAB, WIDTH)] if kind_of(component) is Head else []

    def outputs(x: jax.Array, ctx: Context) -> list[jax.Array]:
        result = component.apply({"params": parameters(component)}, x, ctx, *rest)
        return jax.tree.leaves(compute_logits(result))

    row = outputs(jnp.concatenate([*hidden, normal(9, 1, 2, WIDTH)], 1), ctx)
    alone = [outputs(part, Context(positions=jnp.arange(part.shape[1])[None])) for part in hidden]
    for index, leaf in enumerate(row):
        parts = [np.asarray(part[index]) for part in alone]
        # an output for each token
        if parts[0].ndim > 2 and parts[0].shape[1] == lengths[0] and leaf.shape[1] == sum(lengths) + 2:
            require_close(leaf[:, : sum(lengths)], np.concatenate(parts, 1), 1e-5, "outputs of tokens in a packed row")
        elif parts[0].shape[0] == 1 and leaf.shape[:2] == (1, 2):
            require_close(leaf[0], np.concatenate(parts), 1e-5, "outputs of examples in a packed row")
        elif parts[0].ndim == 2:
            require(False, f"a row of two examples gave shape {leaf.shape}; (1, 2, {parts[0].shape[-1]}) was expected")
        else:
            raise NotTestedError(f"outputs of shape {leaf.shape} belong neither to tokens nor to examples")


def law_embed_fills_in_positions(embed: Component) -> None:
    """An embed gives x (b, t, d) and a context with positions (b or 1, t)."""
    whole = batch()
    x, ctx = jax.eval_shape(lambda: embed.apply({"params": parameters(embed)}, whole, Context.of(whole)))
    require(len(x.shape) == 3 and x.shape[0] == 2, f"x has shape {x.shape}; (b, t, d) was expected, with b = 2")
    shape = None if ctx.positions is None else ctx.positions.shape
    require(
        shape in ((2, x.shape[1]), (1, x.shape[1])),
        f"positions have shape {shape}; (b, t) was expected, with t = {x.shape[1]}",
    )
