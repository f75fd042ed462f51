"""Language: the next token, several next tokens, translations, masked tokens."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from models.contracts import Batch, Model, Tree
from models.decoding.beam import beam
from models.head.chunked import Projected
from models.largest import find_largest
from train.baselines import fit_frequencies
from train.objectives.classification import cross_entropy, measure_label, pick_log_odds, to_probabilities
from train.sums import Each, Sum, Sums, sum_weighted


class Frequencies:
    """The simple baseline of predictions of the next token: how often each token occurs, whatever stands before it."""

    constant = "token frequencies"

    def fit_constant(self, batches: Iterable[Mapping[str, np.ndarray]]) -> np.ndarray:
        """Fits the log-frequencies of the tokens that follow another in their segment, (n + 1,)."""
        return fit_frequencies(batch["tokens"][:, 1:][np.asarray(_mark_followed(batch, 1)) > 0] for batch in batches)

    def measure_constant(self, constant: np.ndarray, batch: Mapping[str, np.ndarray]) -> Sums:
        """Measures the loss and the accuracy of the frequencies as the prediction at every position."""
        return measure_frequencies(constant, batch["tokens"][:, 1:], np.asarray(_mark_followed(batch, 1)))


@dataclasses.dataclass(frozen=True)
class NextToken(Frequencies):
    """Next-token loss = -log softmax(logits[t])[token[t + 1]], in nats a token, inside each segment.

    Reads `tokens` and `segments` (b, t); logits (b, t, v), or `Projected` ones, computed in chunks.
    """

    in_chunks = True
    continues = True

    def __call__(self, outputs: jax.Array | Projected, batch: Batch) -> Sums:
        return _predict_ahead(outputs, batch, 1)

    def pick_score(self, output: np.ndarray, names: tuple[str, ...]) -> tuple[Callable[[jax.Array], jax.Array], str]:
        """Picks the log odds of the most probable token after the text."""
        last, (compute, words) = len(output) - 1, pick_log_odds(output[-1], names)
        return lambda logits: compute(logits[last]), words

    def answer(self, output: np.ndarray, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
        """The five most probable next tokens after the text."""
        return {"next": _list_likeliest(output[-1], names)}


@dataclasses.dataclass(frozen=True)
class Translation(Frequencies):
    """Translation loss = -sum_i q_i log softmax(logits[t])_i, with labels smoothed by s = `smoothing`.

    q_i = (1 - s) [i = token[t + 1]] + s / v.  The loss is logsumexp(logits) - (1 - s) logits[token] - s mean(logits),
    and its gradient softmax(logits) - q (Szegedy et al., arXiv:1512.00567, section 7); `token_loss` is the loss without
    smoothing.  A beam search of `beams` beams finds translations of at most `longest` tokens, with the length `penalty`
    of arXiv:1609.08144.  Reads `tokens` and `segments` (b, t); logits (b, t, v), or `Projected` ones.
    """

    in_chunks = True

    smoothing: float = 0.1
    beams: int = 4
    longest: int = 64
    penalty: float = 0.6

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1 or self.beams < 1 or self.longest < 1:
            raise ValueError(
                f"Translation has smoothing {self.smoothing}, beams {self.beams} and longest {self.longest};"
                " smoothing is from 0 to below 1, the others count from 1."
            )

    def __call__(self, outputs: jax.Array | Projected, batch: Batch) -> Sums:
        return _predict_ahead(outputs, batch, 1, self.smoothing)

    def measure_constant(self, constant: np.ndarray, batch: Mapping[str, np.ndarray]) -> Sums:
        """Measures the loss without smoothing, and the accuracy."""
        sums = super().measure_constant(constant, batch)
        return {"token_loss": sums["loss"], "accuracy": sums["accuracy"]}

    def search(self, model: Model, params: Tree, batch: Batch, end: int) -> jax.Array:
        """The best translation of each source as tokens (b, longest), padded with `end`.  Pure."""
        source = {
            name: value for name, value in batch.items() if name in ("source", "source_segments", "source_positions")
        }
        first = {name: batch[name][:, :1] for name in ("tokens", "segments", "positions")}
        return beam(model, params, source | first, self.longest, self.beams, end, self.penalty)[0]

    def answer(self, output: np.ndarray, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
        """The five most probable next tokens."""
        return {"next": _list_likeliest(output[-1], names)}


@dataclasses.dataclass(frozen=True)
class NextTokens(Frequencies):
    """Multi-token loss = sum over n = 1 ... N of -log softmax(logits[t, n])[token[t + n]].  arXiv:2404.19737.

    In nats a token that follows another: the sum over all t and n (the paper's equation 2) over the number of next
    tokens.  It is one sum over tokens, the same over any parts of a batch.  `next_token_loss` is the part of n = 1.
    Reads `tokens` and `segments` (b, t); logits (b, t, n, v), or `Projected` ones.
    """

    in_chunks = True
    continues = True

    def __call__(self, outputs: jax.Array | Projected, batch: Batch) -> Sums:
        if len(outputs.shape) != 4:
            raise ValueError(
                f"NextTokens takes logits (b, t, n, v), which a MultiTokenHead gives, and got {outputs.shape}"
            )
        parts = [_predict_ahead(outputs[:, :, n], batch, n + 1) for n in range(outputs.shape[2])]
        first = parts[0]["loss"]
        loss = functools.reduce(_add_losses, (part["loss"] for part in parts))
        return {"loss": loss, "next_token_loss": first, "accuracy": parts[0]["accuracy"]}

    def measure_constant(self, constant: np.ndarray, batch: Mapping[str, np.ndarray]) -> Sums:
        """Measures the loss and the accuracy of the next token."""
        sums = super().measure_constant(constant, batch)
        return {"next_token_loss": sums["loss"], "accuracy": sums["accuracy"]}

    def pick_score(self, output: np.ndarray, names: tuple[str, ...]) -> tuple[Callable[[jax.Array], jax.Array], str]:
        """Picks the log odds of the most probable token after the text."""
        last, (compute, words) = len(output) - 1, pick_log_odds(output[-1, 0], names)
        return lambda logits: compute(logits[last, 0]), words

    def answer(self, output: np.ndarray, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
        """The five most probable next tokens after the text."""
        return {"next": _list_likeliest(output[-1, 0], names)}


def _add_losses(left: Sum, right: Sum) -> Sum:
    """Adds the values of two Sums, over the weights of the first."""
    assert left.each is not None
    assert right.each is not None
    return Sum(left.value + right.value, left.weight, Each(left.each.values + right.each.values, left.each.weights))


def _predict_ahead(outputs: jax.Array | Projected, batch: Batch, n: int, smoothing: float = 0.0) -> Sums:
    """Scores predictions of the token n positions ahead, inside each segment: loss and accuracy."""
    ahead = ((0, 0), (0, min(n, batch["tokens"].shape[1])))  # the last positions have weight 0
    labels, weights = (jnp.pad(part, ahead) for part in (batch["tokens"][:, n:], _mark_followed(batch, n)))
    return _score_predictions(outputs, labels, weights, smoothing)


def _score_predictions(
    outputs: jax.Array | Projected, labels: jax.Array, weights: jax.Array | None, smoothing: float = 0.0
) -> Sums:
    """Scores predictions of the labels (b, t): loss and accuracy; with `smoothing` also the unsmoothed `token_loss`."""
    if isinstance(outputs, Projected):
        filled = jnp.ones(labels.shape, jnp.float32) if weights is None else weights
        totals, losses = outputs.losses(labels, filled, smoothing)
        sums = [
            Sum(value, filled.sum(), Each(each * filled, filled)) for value, each in zip(totals, losses, strict=True)
        ]
    else:
        logits = outputs.astype(jnp.float32)
        plain = cross_entropy(logits, labels)
        hits = (find_largest(outputs) == labels).astype(jnp.float32)
        uniform = jax.nn.logsumexp(logits, axis=-1) - logits.mean(-1)
        losses = ((1 - smoothing) * plain + smoothing * uniform, hits, plain) if smoothing else (plain, hits)
        sums = [sum_weighted(each, weights) for each in losses]
    return dict(zip(("loss", "accuracy", "token_loss"), sums, strict=False))


def _mark_followed(batch: Batch | Mapping[str, np.ndarray], n: int) -> jax.Array:
    """Marks tokens whose n-th successor is in the same segment: 1, otherwise 0; (b, t - n)."""
    if "segments" not in batch:
        return jnp.ones(batch["tokens"][:, n:].shape, jnp.float32)
    segments = batch["segments"]
    return ((segments[:, n:] == segments[:, :-n]) & (segments[:, n:] > 0)).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class MaskedLM:
    """Masked-token loss = -log softmax(logits)[label] at masked tokens.  arXiv:1810.04805.

    Reads `labels` and `weights` (b, t); logits (b, t, v), or `Projected` ones, computed in chunks.
    """

    in_chunks = True
    constant = "token frequencies"

    def __call__(self, outputs: jax.Array | Projected, batch: Batch) -> Sums:
        return _score_predictions(outputs, batch["labels"], batch.get("weights"))

    def fit_constant(self, batches: Iterable[Mapping[str, np.ndarray]]) -> np.ndarray:
        """Fits the log-frequencies of the masked tokens, (n + 1,)."""
        return fit_frequencies(
            batch["labels"][batch["weights"] > 0] if "weights" in batch else batch["labels"] for batch in batches
        )

    def measure_constant(self, constant: np.ndarray, batch: Mapping[str, np.ndarray]) -> Sums:
        """Measures the loss and the accuracy of the frequencies as the prediction of every masked token."""
        return measure_frequencies(constant, batch["labels"], batch.get("weights"))

    def answer(self, output: np.ndarray, names: tuple[str, ...]) -> dict[str, list[dict[str, float]]]:
        """The five most probable tokens at every position."""
        return {"tokens": [_list_likeliest(logits, names) for logits in output]}


def select_loss(measured: Mapping[str, float]) -> float:
    """Selects the loss that models are compared by.

    That is `next_token_loss` where the loss adds several tokens ahead, `token_loss` where it is smoothed.
    """
    return next(measured[name] for name in ("next_token_loss", "token_loss", "loss") if name in measured)


def measure_frequencies(logs: np.ndarray, labels: np.ndarray, weights: np.ndarray | None) -> Sums:
    """Measures loss -log f[label], in nats, and accuracy of log-frequencies (n + 1,) that all labels (...) are
    predicted with; labels from n on share the last.
    """
    nats = jnp.asarray(-logs[np.minimum(labels, len(logs) - 1)], jnp.float32)
    accuracy = measure_label(np.array([logs[:-1].argmax()]), labels, weights)
    return {"loss": sum_weighted(nats, None if weights is None else jnp.asarray(weights)), **accuracy}


def _list_likeliest(logits: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    probabilities = to_probabilities(logits)
    best = np.argsort(-probabilities)[:5]
    return {names[index] if names else str(index): float(probabilities[index]) for index in best}
