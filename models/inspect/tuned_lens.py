"""The tuned lens: the logit lens with an affine translator of each block's state, fitted to the model's outputs.

Belrose et al. 2023, arXiv:2303.08112.  Translators are residual, as in the released code: t(h) = h + h A + b, zero at
the start, so that a decay of A and b draws them to the logit lens.  The last state has none.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models.contracts import Batch, Model, Tree
from models.head.chunked import compute_logits
from models.inspect.intermediates import by_depth, patch
from models.inspect.lens import capture_states, read_outputs

Translators = dict[str, dict[str, jax.Array]]  # by path of the state: "kernel" (d, d) and "bias" (d,)


def make_translators(model: Model, params: Tree, batch: Batch, stack: str = "stack") -> Translators:
    """Makes the translators of all states but the last, each the identity.

    Raises ValueError for states that are not one array.
    """
    shapes = jax.eval_shape(lambda params: capture_states(model, params, batch, stack), params)
    if any(not isinstance(state, jax.ShapeDtypeStruct) for state in shapes.values()):
        raise ValueError(f"States of {stack!r} are trees of several arrays; a translator takes one array (..., d).")
    widths = {path: shapes[path].shape[-1] for path in sorted(shapes, key=by_depth)[:-1]}
    return {path: {"kernel": jnp.zeros((d, d)), "bias": jnp.zeros(d)} for path, d in widths.items()}


def tuned_lens(
    model: Model, params: Tree, translators: Translators, batch: Batch, stack: str = "stack"
) -> dict[str, Tree]:
    """Computes the outputs that translated states have: head(norm(h_l + h_l A_l + b_l)), by path as `logit_lens`.

    Of a state of several streams (b, t, n, d) each stream is translated alike.  The last are the model's own outputs.
    """
    return read_outputs(model, params, batch, _translate(translators, capture_states(model, params, batch, stack)))


def measure_divergence(
    model: Model, params: Tree, translators: Translators, batch: Batch, stack: str = "stack"
) -> dict[str, jax.Array]:
    """Measures KL(p || q_l) in nats, p by the model and q_l by the tuned lens, the mean over tokens, by path.

    Outputs are logits (..., v); tokens of segment 0 are left out.  Raises ValueError for other outputs.
    """
    states = capture_states(model, params, batch, stack)
    last = list(states)[-1]
    final = compute_logits(patch(model, params, batch, {last: states.pop(last)}))
    if not isinstance(final, jax.Array):
        raise ValueError(f"The model gives {type(final).__name__}; the tuned lens is fitted to logits (..., v).")
    target = jax.nn.log_softmax(final.astype(jnp.float32))
    segments = batch.get("segments")
    present = jnp.ones(target.shape[:-1])
    if segments is not None and segments.shape == present.shape:
        present = (segments > 0).astype(jnp.float32)

    @jax.checkpoint
    def diverge(state: jax.Array) -> jax.Array:
        logits = compute_logits(patch(model, params, batch, {last: state}))
        tokens = (jnp.exp(target) * (target - jax.nn.log_softmax(logits.astype(jnp.float32)))).sum(-1)
        return (tokens * present).sum() / jnp.maximum(present.sum(), 1)

    values = jax.lax.map(diverge, jnp.stack(list(_translate(translators, states).values())))
    return dict(zip(states, values, strict=True))


def tune_lens(
    model: Model,
    params: Tree,
    batches: Sequence[Batch],
    optimizer: optax.GradientTransformation | None = None,
    stack: str = "stack",
) -> tuple[Translators, dict[str, np.ndarray]]:
    """Fits translators to batches, one step each; returns them and the divergence before each step, (steps,) by path.

    By default the optimizer is that of the paper: gradients clipped at norm 1, decay 0.001, Nesterov momentum 0.9, and
    a rate that falls linearly from 1, times 1 - momentum, to 0.
    """
    if optimizer is None:
        rate = optax.linear_schedule(0.1, 0.0, len(batches))
        optimizer = optax.chain(
            optax.clip_by_global_norm(1.0), optax.add_decayed_weights(1e-3), optax.sgd(rate, 0.9, nesterov=True)
        )

    @jax.jit
    def step(params: Tree, translators: Translators, state: Tree, batch: Batch) -> tuple[Translators, Tree, Tree]:
        def loss(translators: Translators) -> tuple[jax.Array, dict[str, jax.Array]]:
            divergence = measure_divergence(model, params, translators, batch, stack)
            return jnp.stack(list(divergence.values())).sum(), divergence

        slope, divergence = jax.grad(loss, has_aux=True)(translators)
        updates, state = optimizer.update(slope, state, translators)
        return optax.tree.add(translators, updates), state, divergence

    translators = make_translators(model, params, batches[0], stack)
    state, history = optimizer.init(translators), []
    for batch in batches:
        translators, state, divergence = step(params, translators, state, batch)
        history.append(divergence)
    fitted = {path: translators[path] for path in sorted(translators, key=by_depth)}
    return fitted, {path: np.array([float(each[path]) for each in history]) for path in fitted}


def _translate(translators: Translators, states: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    return {
        path: state
        if path not in translators
        else (state + state @ translators[path]["kernel"] + translators[path]["bias"]).astype(state.dtype)
        for path, state in states.items()
    }
