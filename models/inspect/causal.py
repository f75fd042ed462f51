"""Causal importance of intermediate values: a metric once they are restored, taken away, or sent along a path."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from models.contracts import Batch, Model, Tree
from models.head.chunked import compute_logits
from models.inspect.intermediates import Change, capture, patch, select_paths, trace

Metric = Callable[[Tree], jax.Array]  # of the outputs; a number, or one an example


def recover_shares(
    model: Model,
    params: Tree,
    clean: Batch,
    corrupted: Batch,
    metric: Metric,
    patterns: Sequence[str],
    axis: int | None = None,
) -> dict[str, jax.Array]:
    """Patches activations: the share of a metric that each value of the clean batch recovers in the corrupted one.

    (m(corrupted with the value) - m(corrupted)) / (m(clean) - m(corrupted)), by path: 0 has no effect, 1 restores all.
    With `axis` each index of that axis of a value is patched alone, (n, ...): 1 for the tokens of a stream (b, t, d) or
    the heads of attention weights (b, h, t, s).  Both batches have the same shapes.  Causal tracing, Meng et al. 2022,
    arXiv:2202.05262; the normalised form is that of Zhang and Nanda 2023, arXiv:2309.16042.
    """
    values = capture(model, params, clean, *patterns)
    high, low = (metric(compute_logits(model.apply({"params": params}, batch))) for batch in (clean, corrupted))
    patched = _patch_each(model, params, corrupted, metric, values, lambda old, new: new, axis)
    return {path: (scores - low) / (high - low) for path, scores in patched.items()}


def ablate(
    model: Model,
    params: Tree,
    batch: Batch,
    metric: Metric,
    patterns: Sequence[str],
    axis: int | None = None,
    by: Change = jnp.zeros_like,
) -> dict[str, jax.Array]:
    """Measures importance: m(outputs) - m(outputs with a value ablated), by path.

    `ablate(model, params, batch, metric, ["**.weigh"], axis=1)` takes away the attention weights of each head in turn,
    (h, ...).  `by` gives the value instead: zeros, or `mean_over_batch`.  Michel et al. 2019, Are sixteen heads really
    better than one?, arXiv:1905.10650.
    """
    values = capture(model, params, batch, *patterns)
    plain = metric(compute_logits(model.apply({"params": params}, batch)))
    ablated = _patch_each(model, params, batch, metric, values, lambda old, new: by(old), axis)
    return {path: plain - scores for path, scores in ablated.items()}


def patch_path(
    model: Model,
    params: Tree,
    batch: Batch,
    senders: Mapping[str, Change | Tree],
    receivers: Sequence[str],
    frozen: Sequence[str],
) -> Tree:
    """Computes the outputs if new values of some senders, by path, reach the receivers alone, and past frozen values.

    The receivers get what they become with the senders changed and all `frozen` values, but those of senders and
    receivers, as they are in the batch; all else is computed from there on.  With heads frozen, `**.out:input`, a path
    runs through feedforwards too, as in the paper; `["stack.*.mixer", "stack.*.feedforward"]` leaves direct paths, of
    branches, alone.  Path patching, Wang et al. 2022, arXiv:2211.00593, appendix B; Goldowsky-Dill et al. 2023,
    arXiv:2304.05969.
    """
    paths = trace(model, {"params": params}, batch)
    targets = select_paths(receivers, paths)
    kept = [path for path in select_paths(frozen, paths) if path not in targets and path not in senders]
    changes = (capture(model, params, batch, *kept) if kept else {}) | dict(senders)
    return patch(model, params, batch, capture(model, params, batch, *targets, changes=changes))


def subtract_logits(at: ArrayLike, right: ArrayLike, wrong: ArrayLike) -> Metric:
    """The metric z[right] - z[wrong] at one token of each example, all (b,), of logits (b, t, v): logit difference."""
    at, right, wrong = map(jnp.asarray, (at, right, wrong))
    row = jnp.arange(len(at))
    return lambda logits: logits[row, at, right] - logits[row, at, wrong]


def mean_over_batch(value: jax.Array) -> jax.Array:
    """The mean over examples, for each of them: mean ablation."""
    return jnp.broadcast_to(value.mean(0, keepdims=True), value.shape)


def _patch_each(
    model: Model,
    params: Tree,
    batch: Batch,
    metric: Metric,
    values: Mapping[str, Tree],
    change: Callable[[Tree, Tree], Tree],
    axis: int | None,
) -> dict[str, jax.Array]:
    """The metric with each value, or each index of an axis of it, changed alone; one program for all."""
    counts = {path: 1 if axis is None else jax.tree.leaves(value)[0].shape[axis] for path, value in values.items()}
    pairs = [(number, index) for number, count in enumerate(counts.values()) for index in range(count)]

    def once(pair: jax.Array) -> jax.Array:
        def at(number: int, path: str) -> Change:
            def exchange(old: jax.Array, new: jax.Array) -> jax.Array:
                chosen = pair[0] == number
                if axis is not None:
                    shape = [1] * old.ndim
                    shape[axis] = old.shape[axis]
                    chosen = chosen & (jnp.arange(old.shape[axis]) == pair[1]).reshape(shape)
                return jnp.where(chosen, new, old)

            return lambda old: jax.tree.map(exchange, old, change(old, values[path]))

        changes = {path: at(number, path) for number, path in enumerate(values)}
        return metric(compute_logits(patch(model, params, batch, changes)))

    scores, start = jax.lax.map(once, jnp.asarray(pairs)), 0
    results: dict[str, jax.Array] = {}
    for path, count in counts.items():
        results[path] = scores[start] if axis is None else scores[start : start + count]
        start += count
    return results
