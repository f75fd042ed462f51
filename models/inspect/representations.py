"""Similarity of representations, and what a linear probe reads from them.  Rows are tokens or examples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


class Probe(NamedTuple):
    """Held-out accuracy of a probe, of the same probe on random labels (control), and their difference."""

    accuracy: jax.Array
    control: jax.Array
    selectivity: jax.Array


def compute_cka(left: ArrayLike, right: ArrayLike) -> jax.Array:
    """Linear centred kernel alignment: |Y^T X|^2 / (|X^T X| |Y^T Y|), Frobenius norms of centred columns.

    (n, d) and (n, e) -> a number from 0 to 1, the same for rotated and scaled representations.  Kornblith et al. 2019,
    arXiv:1905.00414, equation 4.
    """
    x, y = (value - value.mean(0) for value in map(jnp.asarray, (left, right)))
    return jnp.square(y.T @ x).sum() / (jnp.linalg.norm(x.T @ x) * jnp.linalg.norm(y.T @ y))


def probe(
    features: ArrayLike,
    labels: ArrayLike,
    kinds: ArrayLike,
    classes: int,
    key: jax.Array,
    held_out: float = 0.2,
    penalty: float = 1.0,
) -> Probe:
    """Fits a linear probe, and the same probe to a control task: its selectivity is the difference of accuracies.

    features (n, d), labels (n,) below `classes`, kinds (n,): the control gives each kind, such as a token's id, one
    label at random, drawn from the labels.  The probe is the ridge classifier, the argmax over classes of
    x^T (X^T X + penalty I)^-1 X^T Y, with features centred and Y the labels as one-hot rows less their mean.  A random
    share of the rows is held out.  Raises ValueError if a part has no row.

    Probes: Alain and Bengio 2016, arXiv:1610.01644.  Control tasks: Hewitt and Liang 2019, arXiv:1909.03368.
    """
    split, draw = jax.random.split(key)
    features, labels, kinds = map(jnp.asarray, (features, labels, kinds))
    n = len(features)
    count = round(n * held_out)
    if not 0 < count < n:
        raise ValueError(f"held_out is {held_out} of {n} rows; both parts need a row.")
    order = jax.random.permutation(split, n)
    _, number = jnp.unique(kinds, return_inverse=True, size=n)
    control = jax.random.choice(draw, labels, (n,))[number.reshape(n)]
    test, train = order[:count], order[count:]
    accuracy, chance = (
        (classify(features[train], goal[train], features[test], classes, penalty) == goal[test]).mean()
        for goal in (labels, control)
    )
    return Probe(accuracy, chance, accuracy - chance)


def classify(
    features: ArrayLike, labels: ArrayLike, others: ArrayLike, classes: int, penalty: float = 1.0
) -> jax.Array:
    """Fits the ridge classifier of `probe` to features (n, d) and labels (n,), and classifies others (m, d) -> (m,)."""
    features, others = jnp.asarray(features), jnp.asarray(others)
    mean, targets = features.mean(0), jax.nn.one_hot(labels, classes)
    x, y = features - mean, targets - targets.mean(0)
    weight = jnp.linalg.solve(x.T @ x + penalty * jnp.eye(x.shape[1]), x.T @ y)
    return ((others - mean) @ weight + targets.mean(0)).argmax(-1)
