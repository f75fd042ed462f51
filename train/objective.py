"""Objectives: each loss and metric as a sum and its weight over examples, divided once at the end."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.contracts import Batch, Model
from models.decoding.beam import beam
from models.head.chunked import Projected
from train.sums import Each, Sum, Sums, weighted


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    logits = logits.astype(jnp.float32)
    return jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]


def probabilities(logits: np.ndarray) -> np.ndarray:
    """softmax(logits), in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Classification:
    """loss = -log softmax(logits)[label], averaged over examples.  Reads `labels` (...) and `weights` (...); logits (..., c).

    Where the batch has `targets` (..., c), shares of the classes, the loss is -sum_c target_c log softmax(logits)_c.

    With `class_weights` w, one a class in their order or "auto" (n / (k n_c), `train.data.balance.class_weights`), the
    loss in training is

        1 / n sum_i w[label_i] loss_i

    and of targets w[label] is sum_c w_c target_c; a batch has it of each example as `emphasis` (...).  Divided by the
    number of examples, as in Keras, the gradients of small batches are on average that of the whole; by the sum of the
    weights, as in PyTorch, a rare example would count less the smaller its batch is.  A test split's batches have no
    `emphasis`: its loss is that of the data as it is.  "auto" beside a `balance` of the data is refused, as
    both make up for rare classes.
    """

    class_weights: tuple[float, ...] | str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_weights", _class_weights(self.class_weights))

    def __call__(self, outputs: jax.Array, batch: Batch) -> Sums:
        labels, weights = batch["labels"], batch.get("weights")
        correct = (outputs.argmax(-1) == labels).astype(jnp.float32)
        if "targets" in batch:
            losses = -jnp.sum(batch["targets"] * jax.nn.log_softmax(outputs.astype(jnp.float32)), axis=-1)
        else:
            losses = _cross_entropy(outputs, labels)
        return {"loss": weighted(losses * batch.get("emphasis", 1.0), weights), "accuracy": weighted(correct, weights)}

    def answer(self, output: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
        """The likeliest label and the probability of each."""
        chances = probabilities(output)
        names = names or tuple(map(str, range(len(chances))))
        return {"label": names[int(chances.argmax())], "probabilities": dict(zip(names, map(float, chances), strict=True))}


def _class_weights(given: tuple[float, ...] | str | None) -> tuple[float, ...] | str | None:
    """Weights of a config or of the command line, `auto` or `(1, 20)`.  Raises ValueError for others."""
    if given is None or given == "auto":
        return given
    try:
        numbers = given.strip("()[] ").rstrip(",").split(",") if isinstance(given, str) else given
        found = tuple(float(number) for number in numbers)
    except (TypeError, ValueError):
        found = ()
    if not found or min(found) < 0 or not max(found) > 0 or not np.isfinite(found).all():
        raise ValueError(f"Classification.class_weights is {given!r}; give auto, or numbers of 0 or above: (1, 20).")
    return found


@dataclasses.dataclass(frozen=True)
class MeanSquaredError:
    """loss = 1/(2n) sum (y - y_hat)^2: its gradient is the mean error.  Reads `values` (..., m) and `weights` (...); outputs (..., m)."""

    def __call__(self, outputs: jax.Array, batch: Batch) -> Sums:
        if outputs.shape != batch["values"].shape:
            raise ValueError(
                f"the values to predict have shape {batch['values'].shape[1:]} an example, and the model gives {outputs.shape[1:]}"
                " (model.head.values, model.head.pool)"
            )
        error = outputs.astype(jnp.float32) - batch["values"]
        weights = batch["weights"][..., None] if "weights" in batch else None
        squared = jnp.square(error)
        return {
            "loss": weighted(squared / 2, weights),
            "mean_squared_error": weighted(squared, weights),
            "mean_absolute_error": weighted(jnp.abs(error), weights),
        }

    def answer(self, output: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
        """The value, or the list of values."""
        values = [float(value) for value in output]
        return {"value": values[0] if len(values) == 1 else values}


@dataclasses.dataclass(frozen=True)
class Quantiles:
    """loss = mean over quantiles q of max(q e, (q - 1) e) with e = y - y_hat, the pinball loss (Koenker and Bassett, Econometrica 1978).

    Reads `values` (b, t, n), `scale` (b, 1, n) and `weights` (b,); outputs (b, t n q), the quantile last.  `mean_absolute_error` is that
    of the middle quantile times the scale, in the units of the data.
    """

    levels: tuple[float, ...] = (0.1, 0.5, 0.9)

    def __post_init__(self) -> None:
        if not self.levels or not all(0 < low < high < 1 for low, high in zip((1e-9, *self.levels), self.levels, strict=False)):
            raise ValueError(f"Quantiles.levels is {self.levels}; give ascending numbers between 0 and 1.")

    @property
    def per_value(self) -> int:
        """Outputs for each value: a quantile each."""
        return len(self.levels)

    def __call__(self, outputs: jax.Array, batch: Batch) -> Sums:
        values, count = batch["values"], len(self.levels)
        if outputs.size != values.size * count:
            raise ValueError(
                f"{count} quantiles of {values.shape[1]} steps of {values.shape[2]} series are {values[0].size * count} values, and the"
                f" model gives {outputs[0].size} (model.head.values, model.head.pool)"
            )
        error = values[..., None] - outputs.astype(jnp.float32).reshape(*values.shape, count)
        levels, weights = jnp.asarray(self.levels), batch.get("weights")
        weights = None if weights is None else weights[:, None, None]
        pinball = jnp.maximum(levels * error, (levels - 1) * error).mean(-1)
        absolute = jnp.abs(error[..., count // 2]) * batch.get("scale", 1.0)
        return {"loss": weighted(pinball, weights), "mean_absolute_error": weighted(absolute, weights)}

    def answer(self, output: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
        """What follows, step by step: every quantile of each series (t, n, q)."""
        del names
        steps = output[:, 0] if output.shape[1] == 1 else output
        return {"forecast": {str(level): steps[..., place].tolist() for place, level in enumerate(self.levels)}}


@dataclasses.dataclass(frozen=True)
class NextToken:
    """loss = -log softmax(logits[t])[token[t + 1]], in nats a token, inside each segment.

    Reads `tokens` and `segments` (b, t); logits (b, t, v), or `Projected` ones, computed in chunks.
    """

    in_chunks = True
    continues = True

    def __call__(self, outputs: jax.Array | Projected, batch: Batch) -> Sums:
        return _ahead(outputs, batch, 1)

    def answer(self, output: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
        """The five likeliest next tokens after the text."""
        return {"next": _likeliest(output[-1], names)}


@dataclasses.dataclass(frozen=True)
class Translation:
    """loss = -sum_i q_i log softmax(logits[t])_i, where q_i = (1 - s) [i = token[t + 1]] + s / v is the label, smoothed by s = `smoothing`.

    That is logsumexp(logits) - (1 - s) logits[token] - s mean(logits), and its gradient softmax(logits) - q (Szegedy et al.,
    arXiv:1512.00567, section 7); `token_loss` is the loss without it.  Translations are searched with `beams`, `longest` tokens long at
    most, and `penalty` for short ones (arXiv:1609.08144).  Reads `tokens` and `segments` (b, t); logits (b, t, v), or `Projected` ones.
    """

    in_chunks = True

    smoothing: float = 0.1
    beams: int = 4
    longest: int = 64
    penalty: float = 0.6

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1 or self.beams < 1 or self.longest < 1:
            raise ValueError(
                f"Translation has smoothing {self.smoothing}, beams {self.beams} and longest {self.longest}; smoothing is from 0 to"
                " below 1, the others count from 1."
            )

    def __call__(self, outputs: jax.Array | Projected, batch: Batch) -> Sums:
        return _ahead(outputs, batch, 1, self.smoothing)

    def search(self, model: Model, params: Any, batch: Batch, end: int) -> jax.Array:
        """The best translation of each source as tokens (b, longest), filled up with `end`.  Pure."""
        given = {name: value for name, value in batch.items() if name in ("source", "source_segments", "source_positions")}
        first = {name: batch[name][:, :1] for name in ("tokens", "segments", "positions")}
        return beam(model, params, given | first, self.longest, self.beams, end, self.penalty)[0]

    def answer(self, output: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
        """The five likeliest next tokens."""
        return {"next": _likeliest(output[-1], names)}


@dataclasses.dataclass(frozen=True)
class NextTokens:
    """loss = sum over n = 1 ... N of -log softmax(logits[t, n])[token[t + n]], for heads that look several tokens ahead.  arXiv:2404.19737.

    In nats for each token that follows another: the sum over all t and n (the paper's equation 2) over the number of next tokens, which
    is one sum over tokens, the same over any parts of a batch.  `next_token_loss` is the part of n = 1.  Reads `tokens` and `segments`
    (b, t); logits (b, t, n, v), or `Projected` ones.
    """

    in_chunks = True
    continues = True

    def __call__(self, outputs: jax.Array | Projected, batch: Batch) -> Sums:
        if len(outputs.shape) != 4:
            raise ValueError(f"NextTokens takes logits (b, t, n, v), which a MultiTokenHead gives, and got {outputs.shape}")
        parts = [_ahead(outputs[:, :, n], batch, n + 1) for n in range(outputs.shape[2])]
        first = parts[0]["loss"]
        loss = functools.reduce(_of_both, (part["loss"] for part in parts))
        return {"loss": loss, "next_token_loss": first, "accuracy": parts[0]["accuracy"]}

    def answer(self, output: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
        """The five likeliest next tokens after the text."""
        return {"next": _likeliest(output[-1, 0], names)}


def _of_both(left: Sum, right: Sum) -> Sum:
    """The Sum of what both add up, over the weights of the first."""
    assert left.each is not None
    assert right.each is not None
    return Sum(left.value + right.value, left.weight, Each(left.each.values + right.each.values, left.each.weights))


def _ahead(outputs: jax.Array | Projected, batch: Batch, n: int, smoothing: float = 0.0) -> Sums:
    """Loss and accuracy of predicting the token n places on, inside each segment."""
    ahead = ((0, 0), (0, min(n, batch["tokens"].shape[1])))  # the last places weigh nothing
    labels, weights = (jnp.pad(part, ahead) for part in (batch["tokens"][:, n:], _followed(batch, n)))
    return _predicted(outputs, labels, weights, smoothing)


def _predicted(outputs: jax.Array | Projected, labels: jax.Array, weights: jax.Array | None, smoothing: float = 0.0) -> Sums:
    """Loss and accuracy of predicting the labels (b, t); with `smoothing` of the loss also `token_loss`, the one without."""
    if isinstance(outputs, Projected):
        spread = jnp.ones(labels.shape, jnp.float32) if weights is None else weights
        totals, losses = outputs.losses(labels, spread, smoothing)
        found = [Sum(value, spread.sum(), Each(each * spread, spread)) for value, each in zip(totals, losses, strict=True)]
    else:
        logits = outputs.astype(jnp.float32)
        plain, hits = _cross_entropy(logits, labels), (outputs.argmax(-1) == labels).astype(jnp.float32)
        even = jax.nn.logsumexp(logits, axis=-1) - logits.mean(-1)
        losses = ((1 - smoothing) * plain + smoothing * even, hits, plain) if smoothing else (plain, hits)
        found = [weighted(each, weights) for each in losses]
    return dict(zip(("loss", "accuracy", "token_loss"), found, strict=False))


def _followed(batch: Batch, n: int) -> jax.Array:
    """1 where the token n places on belongs to the same segment, else 0; (b, t - n)."""
    if "segments" not in batch:
        return jnp.ones(batch["tokens"][:, n:].shape, jnp.float32)
    segments = batch["segments"]
    return ((segments[:, n:] == segments[:, :-n]) & (segments[:, n:] > 0)).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class MaskedLM:
    """loss = -log softmax(logits)[label] at masked tokens.  arXiv:1810.04805.

    Reads `labels` and `weights` (b, t); logits (b, t, v), or `Projected` ones, computed in chunks.
    """

    in_chunks = True

    def __call__(self, outputs: jax.Array | Projected, batch: Batch) -> Sums:
        return _predicted(outputs, batch["labels"], batch.get("weights"))

    def answer(self, output: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
        """The five likeliest tokens at every place."""
        return {"tokens": [_likeliest(logits, names) for logits in output]}


def _likeliest(logits: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    chances = probabilities(logits)
    best = np.argsort(-chances)[:5]
    return {names[index] if names else str(index): float(chances[index]) for index in best}
