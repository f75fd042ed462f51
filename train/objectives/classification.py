"""Classification: cross-entropy, focal loss and class weights."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.contracts import Batch
from train.sums import Sums, weighted


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """log sum exp(logits) - logits[label], in float32: (..., c), (...) -> (...)."""
    logits = logits.astype(jnp.float32)
    return jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]


def probabilities(logits: np.ndarray) -> np.ndarray:
    """softmax(logits), in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Classification:
    """loss = -log softmax(logits)[label], averaged over examples.  Reads `labels` (...) and `weights` (...); logits
    (..., c).

    Where the batch has `targets` (..., c), shares of the classes, the loss is -sum_c target_c log softmax(logits)_c.

    With `class_weights` w, one a class in their order or "auto" (n / (k n_c),
    `train.data.balance.compute_class_weights`), the loss in training is

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
            losses = cross_entropy(outputs, labels)
        return {"loss": weighted(losses * batch.get("emphasis", 1.0), weights), "accuracy": weighted(correct, weights)}

    def answer(self, output: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
        """The likeliest label and the probability of each."""
        chances = probabilities(output)
        names = names or tuple(map(str, range(len(chances))))
        return {
            "label": names[int(chances.argmax())],
            "probabilities": dict(zip(names, map(float, chances), strict=True)),
        }


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
