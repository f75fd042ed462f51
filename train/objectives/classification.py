"""Classification: cross-entropy, focal loss and class weights."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from models.contracts import Batch
from train.baselines import find_majority
from train.sums import Sums, sum_weighted


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy: log sum exp(logits) - logits[label], in float32: (..., c), (...) -> (...)."""
    logits = logits.astype(jnp.float32)
    return jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]


def pick_log_odds(output: np.ndarray, names: tuple[str, ...]) -> tuple[Callable[[jax.Array], jax.Array], str]:
    """Picks the log odds of the most probable class: log p - log(1 - p), from logits (c,)."""
    index = int(output.argmax())

    def compute(logits: jax.Array) -> jax.Array:
        logits = logits.astype(jnp.float32)
        others = jnp.where(jnp.arange(len(logits)) == index, -jnp.inf, logits)
        return logits[index] - jax.nn.logsumexp(others)

    name = names[index] if names else str(index)
    return compute, f"log odds of {name if name.isprintable() and name.strip() else repr(name)}"


def measure_label(constant: np.ndarray, labels: np.ndarray, weights: np.ndarray | None) -> Sums:
    """Measures the accuracy of one label (1,) as the prediction of all labels (...)."""
    right = jnp.asarray(labels == constant[0], jnp.float32)
    return {"accuracy": sum_weighted(right, None if weights is None else jnp.asarray(weights))}


def to_probabilities(logits: np.ndarray) -> np.ndarray:
    """Converts logits to probabilities: softmax(logits), in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


class Classified(TypedDict):
    """The most probable label, and the probability of each."""

    label: str
    probabilities: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Classification:
    """Cross-entropy loss = -log softmax(logits)[label], averaged over examples.

    Reads `labels` (...) and `weights` (...); logits (..., c).  If the batch has `targets` (..., c), probabilities of
    the classes, the loss is -sum_c target_c log softmax(logits)_c.

    With `class_weights` w, one a class in their order or "auto" (n / (k n_c),
    `train.data.balance.compute_class_weights`), the loss in training is

        1 / n sum_i w[label_i] loss_i

    and for targets w[label] is sum_c w_c target_c; a batch has this factor of each example as `emphasis` (...).  The
    divisor is the number of examples, as in Keras, so that the gradients of small batches average to that of the
    whole; with the sum of the weights, as in PyTorch, a rare example would count less the smaller its batch is.  A test
    split's batches have no `emphasis`: its loss is that of the data as it is.  "auto" with a `balance` of the data is
    refused, as both make up for rare classes.
    """

    constant = "majority class"

    class_weights: tuple[float, ...] | str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_weights", _parse_class_weights(self.class_weights))

    def __call__(self, outputs: jax.Array, batch: Batch) -> Sums:
        labels, weights = batch["labels"], batch.get("weights")
        correct = (outputs.argmax(-1) == labels).astype(jnp.float32)
        if "targets" in batch:
            losses = -jnp.sum(batch["targets"] * jax.nn.log_softmax(outputs.astype(jnp.float32)), axis=-1)
        else:
            losses = cross_entropy(outputs, labels)
        return {
            "loss": sum_weighted(losses * batch.get("emphasis", 1.0), weights),
            "accuracy": sum_weighted(correct, weights),
        }

    def fit_constant(self, batches: Iterable[Mapping[str, np.ndarray]]) -> np.ndarray:
        """Finds the most frequent class, (1,)."""
        return find_majority(
            batch["labels"][batch["weights"] > 0] if "weights" in batch else batch["labels"] for batch in batches
        )

    def measure_constant(self, constant: np.ndarray, batch: Mapping[str, np.ndarray]) -> Sums:
        """Measures the accuracy of the class as the prediction for every example."""
        return measure_label(constant, batch["labels"], batch.get("weights"))

    def pick_score(self, output: np.ndarray, names: tuple[str, ...]) -> tuple[Callable[[jax.Array], jax.Array], str]:
        """Picks the log odds of the most probable label."""
        return pick_log_odds(output, names)

    def answer(self, output: np.ndarray, names: tuple[str, ...]) -> Classified:
        """The most probable label and the probability of each."""
        probabilities = to_probabilities(output)
        names = names or tuple(map(str, range(len(probabilities))))
        return {
            "label": names[int(probabilities.argmax())],
            "probabilities": dict(zip(names, map(float, probabilities), strict=True)),
        }


def _parse_class_weights(value: tuple[float, ...] | str | None) -> tuple[float, ...] | str | None:
    """Parses weights of a config or of the command line, `auto` or `(1, 20)`.  Raises ValueError for others."""
    if value is None or value == "auto":
        return value
    try:
        numbers = value.strip("()[] ").rstrip(",").split(",") if isinstance(value, str) else value
        weights = tuple(float(number) for number in numbers)
    except (TypeError, ValueError):
        weights = ()
    if not weights or min(weights) < 0 or not max(weights) > 0 or not np.isfinite(weights).all():
        raise ValueError(f"Classification.class_weights is {value!r}; give auto, or numbers of 0 or above: (1, 20).")
    return weights
