"""Regression: mean squared error and quantiles."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from models.contracts import Batch
from train.sums import Sums, sum_weighted


@dataclasses.dataclass(frozen=True)
class MeanSquaredError:
    """Squared loss = 1/(2n) sum (y - y_hat)^2, whose gradient is the mean error.

    Reads `values` (..., m) and `weights` (...); outputs (..., m).
    """

    constant = "training mean"

    def __call__(self, outputs: jax.Array, batch: Batch) -> Sums:
        if outputs.shape != batch["values"].shape:
            raise ValueError(
                f"the values to predict have shape {batch['values'].shape[1:]} an example, and the model gives"
                f" {outputs.shape[1:]} (model.head.values, model.head.pool)"
            )
        error = outputs.astype(jnp.float32) - batch["values"]
        weights = batch["weights"][..., None] if "weights" in batch else None
        squared = jnp.square(error)
        return {
            "loss": sum_weighted(squared / 2, weights),
            "mean_squared_error": sum_weighted(squared, weights),
            "mean_absolute_error": sum_weighted(jnp.abs(error), weights),
        }

    def fit_constant(self, batches: Iterable[Mapping[str, np.ndarray]]) -> np.ndarray:
        """Computes the mean of the targets, sum w y / sum w, (m,)."""
        total, weight = np.zeros(()), 0.0
        for batch in batches:
            values = batch["values"]
            weights = batch["weights"] if "weights" in batch else np.ones(values.shape[:-1])
            present = np.where(weights[..., None] > 0, values, 0).astype(np.float64)
            total = total + (present * weights[..., None]).reshape(-1, values.shape[-1]).sum(0)
            weight += float(weights.sum())
        return total / weight

    def measure_constant(self, constant: np.ndarray, batch: Mapping[str, np.ndarray]) -> Sums:
        """Measures the mean as the prediction of every value."""
        arrays = {name: jnp.asarray(value) for name, value in batch.items()}
        return self(jnp.broadcast_to(jnp.asarray(constant, jnp.float32), batch["values"].shape), arrays)

    def pick_score(self, output: np.ndarray, names: tuple[str, ...]) -> tuple[Callable[[jax.Array], jax.Array], str]:
        """Picks the value, or the largest of several by its size."""
        del names
        index = int(np.abs(output).argmax())
        words = "value" if output.size == 1 else f"value {index + 1} of {output.size}"
        return lambda values: values.astype(jnp.float32).reshape(-1)[index], words

    def answer(self, output: np.ndarray, names: tuple[str, ...]) -> dict[str, float | list[float]]:
        """The value, or the list of values."""
        values = [float(value) for value in output]
        return {"value": values[0] if len(values) == 1 else values}


@dataclasses.dataclass(frozen=True)
class Quantiles:
    """Pinball loss = mean over quantiles q of max(q e, (q - 1) e) with e = y - y_hat.

    Koenker and Bassett, Econometrica 1978.  Reads `values` (b, t, n), `scale` (b, 1, n) and `weights` (b,); outputs
    (b, t n q), the quantile last.  `mean_absolute_error` is that of the middle quantile times the scale, in the units
    of the data.
    """

    constant = "training quantiles"

    levels: tuple[float, ...] = (0.1, 0.5, 0.9)

    def __post_init__(self) -> None:
        if not self.levels or not all(
            0 < low < high < 1 for low, high in zip((1e-9, *self.levels), self.levels, strict=False)
        ):
            raise ValueError(f"Quantiles.levels is {self.levels}; give ascending numbers between 0 and 1.")

    @property
    def per_value(self) -> int:
        """The number of outputs for each value: one a quantile."""
        return len(self.levels)

    def __call__(self, outputs: jax.Array, batch: Batch) -> Sums:
        values, count = batch["values"], len(self.levels)
        if outputs.size != values.size * count:
            raise ValueError(
                f"{count} quantiles of {values.shape[1]} steps of {values.shape[2]} series are"
                f" {values[0].size * count} values, and the model gives {outputs[0].size} (model.head.values,"
                " model.head.pool)"
            )
        error = values[..., None] - outputs.astype(jnp.float32).reshape(*values.shape, count)
        levels = jnp.asarray(self.levels)
        weights = batch["weights"][:, None, None] if "weights" in batch else None
        pinball = jnp.maximum(levels * error, (levels - 1) * error).mean(-1)
        absolute = jnp.abs(error[..., count // 2]) * batch.get("scale", 1.0)
        return {"loss": sum_weighted(pinball, weights), "mean_absolute_error": sum_weighted(absolute, weights)}

    def fit_constant(self, batches: Iterable[Mapping[str, np.ndarray]]) -> np.ndarray:
        """Computes the quantiles of all values, which are normalised by their windows, (q,)."""
        values = [batch["values"][batch["weights"] > 0 if "weights" in batch else ...].reshape(-1) for batch in batches]
        return np.quantile(np.concatenate(values), self.levels)

    def measure_constant(self, constant: np.ndarray, batch: Mapping[str, np.ndarray]) -> Sums:
        """Measures the quantiles as the forecast of every value."""
        arrays = {name: jnp.asarray(value) for name, value in batch.items()}
        shape = (*batch["values"].shape, len(self.levels))
        return self(jnp.broadcast_to(jnp.asarray(constant, jnp.float32), shape).reshape(shape[0], -1), arrays)

    def pick_score(self, output: np.ndarray, names: tuple[str, ...]) -> tuple[Callable[[jax.Array], jax.Array], str]:
        """Picks the mean of the middle quantile over steps and series."""
        del output, names
        count = len(self.levels)
        return (
            lambda values: values.astype(jnp.float32).reshape(-1, count)[:, count // 2].mean(),
            "mean forecast",
        )

    def answer(
        self, output: np.ndarray, names: tuple[str, ...]
    ) -> dict[str, dict[str, list[float] | list[list[float]]]]:
        """The forecast step by step: every quantile of each series (t, n, q)."""
        del names
        steps = output[:, 0] if output.shape[1] == 1 else output
        return {"forecast": {str(level): steps[..., index].tolist() for index, level in enumerate(self.levels)}}
