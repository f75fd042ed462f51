"""A sparse autoencoder: the vectors at a path of a model as few of many directions."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from models.context import Decoding
from models.contracts import Batch, Tree

Key = jax.Array


class Reconstruction(NamedTuple):
    """Reconstructed vectors (n, d), their codes (n, f), and a second reconstruction, of the error, by silent features.

    Silent features are those that no vector of the batch activates.
    """

    values: jax.Array
    codes: jax.Array
    error: jax.Array


@dataclasses.dataclass(frozen=True)
class SparseAutoencoder:
    """Codes z = TopK(relu(W (x - m) + c)) and values x' = m + sum_i z_i v_i, with directions v_i of norm 1.

    `active` of the `features` at most are not zero: the k-sparse form, without a penalty, of Gao et al. 2024,
    arXiv:2406.04093.  Directions are divided by their norms when they are read, which gives the gradient without its
    part along them.  The rows of W begin as the directions, m as the mean of the first batch (the paper: its geometric
    median).  The error is modelled by d / 2 of the features that are silent in the batch (the paper: in 10 million
    tokens), so that they come back.

    A model of batches of `values` (n, d), with parameters of its own.  Raises ValueError for fewer features than active
    ones.
    """

    features: int = 1024
    active: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.active <= self.features:
            raise ValueError(
                f"SparseAutoencoder has {self.features} features, of which {self.active} are active; give 1 active"
                " feature or more, and as many features or more."
            )

    def init(self, rngs: Key, *args: Tree, **kwargs: Tree) -> dict[str, Tree]:
        """Initialises the parameters: directions (f, d), encoder (d, f), bias (f,), and mean (d,), of the batch."""
        values = args[0]["values"]
        directions = _normalise(jax.random.normal(rngs, (self.features, values.shape[-1])))
        params = {"directions": directions, "encoder": directions.T, "bias": jnp.zeros(self.features)}
        return {"params": params | {"mean": values.astype(jnp.float32).mean(0)}}

    def __call__(self, batch: Batch, train: bool = False, decoding: Decoding | None = None) -> Reconstruction:
        """The call of a model; it needs parameters, so use `apply`."""
        raise TypeError("A SparseAutoencoder has no parameters of its own; call apply(variables, batch).")

    def apply(self, variables: Tree, *args: Tree, rngs: dict[str, Key] | None = None, **kwargs: Tree) -> Tree:
        """Reconstructs a batch of values (n, d): a Reconstruction, beside an empty state if `mutable` names one."""
        batch: Batch = args[0]
        params, values = variables["params"], batch["values"]
        drive = self._drive(params, values)
        codes = _keep_largest(drive, self.active)
        silent = jnp.where((codes > 0).any(0), -jnp.inf, drive)
        error = _keep_largest(silent, min(max(1, values.shape[-1] // 2), self.features))
        outputs = Reconstruction(self.decode(params, codes), codes, error @ _normalise(params["directions"]))
        return (outputs, {}) if kwargs.get("mutable") else outputs

    def encode(self, params: Tree, values: jax.Array) -> jax.Array:
        """Encodes vectors (..., d) to codes (..., f)."""
        return _keep_largest(self._drive(params, values), self.active)

    def decode(self, params: Tree, codes: jax.Array) -> jax.Array:
        """Decodes codes (..., f) to vectors (..., d)."""
        return codes @ _normalise(params["directions"]) + params["mean"]

    def reconstruct(self, params: Tree, values: jax.Array) -> jax.Array:
        """Encodes and decodes vectors (..., d), for `patch`: what the model does without the rest."""
        return self.decode(params, self.encode(params, values))

    def _drive(self, params: Tree, values: jax.Array) -> jax.Array:
        return (values - params["mean"]) @ params["encoder"] + params["bias"]


def _normalise(directions: jax.Array) -> jax.Array:
    return directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)


def _keep_largest(drive: jax.Array, count: int) -> jax.Array:
    """The largest of the last axis, if they are above 0; all others are 0."""
    values, places = jax.lax.top_k(drive, count)
    return jnp.put_along_axis(jnp.zeros_like(drive), places, jax.nn.relu(values), axis=-1, inplace=False)
