"""Readings of the residual stream in the model's own outputs: the logit lens, and each branch's part of a logit."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from models.contracts import Batch, Model, Norm, Tree
from models.head.chunked import compute_logits
from models.inspect.intermediates import by_depth, capture, patch
from models.inspect.watch import INPUT
from models.norm import LayerNorm, RMSNorm
from models.structure import part

Pick = Callable[[Tree], jax.Array]  # a linear function of the outputs, such as the difference of two logits


def logit_lens(model: Model, params: Tree, batch: Batch, stack: str = "stack") -> dict[str, Tree]:
    """Computes the outputs that the model would have if it ended after each block: head(norm(state_l)).

    By path, `stack.0:input` for the state before the first block, then `stack.0`, `stack.1`, ...; the last are the
    model's own outputs.  `stack` is the path of the stack before the head, "decoder" in an EncoderDecoder.

    nostalgebraist 2020, Interpreting GPT: the logit lens.  With learned translators: `models.inspect.tuned_lens`.
    Raises ValueError for states of several shapes.
    """
    return read_outputs(model, params, batch, capture_states(model, params, batch, stack))


def capture_states(model: Model, params: Tree, batch: Batch, stack: str = "stack") -> dict[str, Tree]:
    """Captures the state before the first block, `stack.0:input`, and after each block, in their order.

    Raises ValueError for states of several shapes.
    """
    first = f"{stack}.0{INPUT}"
    states = capture(model, params, batch, first, f"{stack}.[0-9]*")
    shapes = {str(jax.tree.map(jnp.shape, state)) for state in states.values()}
    if len(shapes) > 1:
        raise ValueError(f"States of {stack!r} have shapes {', '.join(sorted(shapes))}; the lens needs one shape.")
    return {path: states[path] for path in sorted(states, key=by_depth)}


def read_outputs(model: Model, params: Tree, batch: Batch, states: Mapping[str, Tree]) -> dict[str, Tree]:
    """Computes the outputs of the model with each state, by path, in the place of the last of them."""
    last = list(states)[-1]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states.values())
    outputs = jax.lax.map(lambda state: compute_logits(patch(model, params, batch, {last: state})), stacked)
    return {path: jax.tree.map(lambda leaf, row=row: leaf[row], outputs) for row, path in enumerate(states)}


def attribute_logits(
    model: Model, params: Tree, batch: Batch, pick: Pick, stack: str = "stack"
) -> dict[str, jax.Array]:
    """Divides logits among the branches of all blocks: pick(J N(c)) for each contribution c to the residual stream.

    The state is x_0 + sum_i c_i, c_i what branch i changes: its output, if the residual is x + branch(norm(x)).  N is
    the stack's norm with its statistics frozen at the last state, N(c) = scale * (c - mean(c)) / sigma for LayerNorm,
    scale * c / rms for RMSNorm; J is the head's derivative.  By path: `stack.0:input` for x_0, `stack.3.mixer`, ...;
    "bias" is that of norm and head, "rest" what is left.  They sum to pick(outputs), and the rest is zero, up to
    rounding, if the head is affine.  `pick` is linear: `lambda logits: logits[:, -1, right] - logits[:, -1, wrong]`.

    Elhage et al. 2021, A mathematical framework for transformer circuits; Wang et al. 2022, arXiv:2211.00593.  Raises
    ValueError for a state that is not one stream, and for a norm that is neither of these.
    """
    first = f"{stack}.0{INPUT}"
    values = capture(model, params, batch, first, stack, f"{stack}.*.*_residual", f"{stack}.*.*_residual{INPUT}")
    branches = [path for path in values if path.endswith("_residual")]
    y, x = values[stack], values[first]
    changes = {first: x}
    for path in sorted(branches, key=by_depth):
        after, before = values[path], values[path + INPUT]
        if jax.tree.structure(after) != jax.tree.structure(y) or after.shape != y.shape:
            raise ValueError(
                f"The state at {path!r} has shape {jax.tree.map(jnp.shape, after)}; logits are divided among"
                f" branches of one stream, of shape {y.shape}."
            )
        changes[path.removesuffix("_residual")] = after - before
        x = x + after - before
    frozen, bias = _freeze(part(model, f"{stack}.norm"), params[stack].get("norm", {}), x, stack)

    def tail(y: jax.Array) -> jax.Array:
        return pick(compute_logits(patch(model, params, batch, {stack: y})))

    total, slope = jax.linearize(tail, y)
    parts = jax.lax.map(slope, jnp.stack([frozen(change).astype(y.dtype) for change in changes.values()]))
    named = dict(zip(changes, parts, strict=True)) | {"bias": slope(bias.astype(y.dtype)) + tail(jnp.zeros_like(y))}
    return named | {"rest": total - sum(named.values(), jnp.zeros_like(total))}


def _freeze(
    norm: Norm | None, params: Tree, x: jax.Array, stack: str
) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
    """The norm as a linear map with its statistics at x, and its bias."""
    if norm is None:
        return lambda c: c, jnp.zeros_like(x)
    wide = x.astype(jnp.float32)
    scale, bias = params.get("scale", jnp.ones(())), params.get("bias", jnp.zeros(()))
    if isinstance(norm, LayerNorm):
        sigma = jnp.sqrt(wide.var(-1, keepdims=True) + norm.epsilon)
        return lambda c: scale * (c - c.mean(-1, keepdims=True)) / sigma, jnp.broadcast_to(bias, x.shape)
    if isinstance(norm, RMSNorm):
        rms = jnp.sqrt(jnp.square(wide).mean(-1, keepdims=True) + norm.epsilon)
        return lambda c: scale * c / rms, jnp.zeros_like(x)
    raise ValueError(
        f"{stack}.norm is {type(norm).__name__}, which is not linear when its statistics are frozen; logits are divided"
        " after LayerNorm, RMSNorm or no norm."
    )
