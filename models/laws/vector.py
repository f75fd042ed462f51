"""Laws of norms and positions, which act on single vectors."""

import jax
import jax.numpy as jnp
import numpy as np

from models.laws.inputs import WIDTH, Component, normal, parameters
from models.laws.verdict import require, require_close


def draw_vectors() -> jax.Array:
    """Vectors away from zero, (5, 8, d)."""
    return 3 * normal(1, 5, 8, WIDTH) + 2


def law_norm_forgets_the_scale(norm: Component) -> None:
    """norm(8 x) = norm(x)."""
    x, variables = draw_vectors(), {"params": parameters(norm)}
    require_close(norm.apply(variables, 8 * x), norm.apply(variables, x), 1e-4, "norm(8 x) and norm(x) differ")


def law_norm_acts_on_each_vector_alone(norm: Component) -> None:
    """Another vector, of the same token's heads, of another token or another row, changes nothing."""
    x, variables = draw_vectors(), {"params": parameters(norm)}
    moved = np.abs(np.asarray(norm.apply(variables, x) - norm.apply(variables, x.at[1, 2].add(normal(2, WIDTH))))).max(
        -1
    )
    require(moved[1, 2] > 1e-3, f"changing vector (1, 2) changes its own output by {moved[1, 2]:.1g} only")
    moved[1, 2] = 0
    index = tuple(map(int, np.unravel_index(moved.argmax(), moved.shape)))
    require(moved.max() < 1e-6, f"changing vector (1, 2) changes the output of vector {index} by {moved.max():.3g}")


def law_norm_starts_with_mean_square_one(norm: Component, mean: float = 1.0) -> None:
    """Initial outputs have mean square 1 over their last axis, or the value that the class declares in `starts_at`."""
    x = draw_vectors()
    square = np.square(norm.apply(norm.init(jax.random.key(0), x), x)).mean(-1)
    require_close(square, np.full_like(square, mean), 1e-3, "mean square of an output at the start")


def law_position_follows_the_token(position: Component) -> None:
    """Tokens and positions in another order give the same vectors in that order; other positions give others."""
    x, positions, variables = normal(1, 1, 6, WIDTH), jnp.array([[0, 1, 2, 5, 1, 7]]), {"params": parameters(position)}
    order = np.array([3, 0, 5, 1, 4, 2])
    moved = position.apply(variables, x[:, order], positions[:, order])
    require_close(moved, np.asarray(position.apply(variables, x, positions))[:, order], 1e-6, "tokens in another order")
    change = np.abs(
        np.asarray(position.apply(variables, x, positions) - position.apply(variables, x, positions + 1))
    ).max()
    require(change > 1e-3, f"positions that are all one higher change the output by {change:.1g} only")


def law_one_row_of_positions_serves_all(position: Component) -> None:
    """Positions (1, t) are those of every row."""
    x, positions, variables = normal(1, 2, 6, WIDTH), jnp.arange(6)[None], {"params": parameters(position)}
    both = jnp.concatenate([positions, positions])
    require_close(
        position.apply(variables, x, positions), position.apply(variables, x, both), 0.0, "positions of shape (1, t)"
    )


def law_products_depend_on_differences(position: Component) -> None:
    """The product of a query at i and a key at j depends on i - j alone."""
    query, key = normal(1, 1, 4), normal(2, 1, 4)

    def product(i: int, j: int) -> float:
        turned = [position.apply({}, vector, jnp.array([index])) for vector, index in ((query, i), (key, j))]
        return float(jnp.vdot(*turned))

    require_close([product(3, 1), product(7, 5)], [product(2, 0), product(2, 0)], 1e-5, "products at the same distance")
    require(abs(product(3, 1) - product(1, 3)) > 1e-3, "the product does not tell before from after")


def law_length_is_kept(position: Component) -> None:
    """Vectors are turned, not stretched."""
    x = normal(1, 6, WIDTH)
    turned = position.apply({}, x, jnp.arange(6))
    require_close(np.linalg.norm(turned, axis=-1), np.linalg.norm(x, axis=-1), 0.0, "length of a vector", 1e-5)
