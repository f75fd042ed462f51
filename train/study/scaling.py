"""Scaling laws: the loss as a floor plus powers of sizes, L = E + sum_k A_k x_k^-a_k, fitted with intervals.

With x = (C,) this is the loss over compute, with x = (N, D) the form of arXiv:2203.15556 over parameters and tokens.
The fit minimises the sum of Huber losses (delta 1e-3) of log L - log L_fit (arXiv:2203.15556, equation 3).  It does not
depend on a start: for fixed exponents, E and A_k are a small non-negative linear problem, so only the exponents are
searched, over a grid and then from its best point (variable projection, arXiv:2603.22339).  Intervals are those of
a bootstrap over runs.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.optimize

from train.errors import InputError

DELTA = 1e-3  # of the Huber loss
EXPONENTS = tuple(np.round(np.geomspace(0.03, 1.5, 18), 4).tolist())
REWEIGHTED = 12  # solutions of the linear problem, each with the weights of the last one's residuals
DRAWS = 400
STEPS = 60  # of the bootstrap's Gauss-Newton iterations
LEVELS = (2.5, 97.5)
TOLERANCE = 0.02  # half the width of an interval, as a share of the loss, up to which a fit is extrapolated
Vector = np.ndarray  # of float64


@dataclasses.dataclass(frozen=True)
class Scaling:
    """A fitted law: the floor E, the factors A_k, the exponents a_k, and the same for each draw of the bootstrap.

    `draws` has a row (E, A_1, ..., a_1, ...) a draw.  `lowest` and `highest` are the ends of the sizes in the data.
    """

    floor: float
    factors: tuple[float, ...]
    exponents: tuple[float, ...]
    draws: Vector
    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    error: float  # root mean square of the residuals of log L
    outliers: tuple[int, ...] = ()  # rows that were left out

    @property
    def values(self) -> Vector:
        """(E, A_1, ..., a_1, ...)."""
        return np.array([self.floor, *self.factors, *self.exponents])

    def predict(self, *sizes: float) -> float:
        """The loss at sizes x_1, ..., inside or outside of the data."""
        return float(_evaluate(self.values[None], np.array([sizes], np.float64))[0, 0])

    def predict_interval(self, *sizes: float) -> tuple[float, float]:
        """The 95 % interval of the loss at sizes x_1, ...; of the law, without the noise of a run."""
        low, high = np.percentile(_evaluate(self.draws, np.array([sizes], np.float64))[:, 0], LEVELS)
        return float(low), float(high)

    def find_intervals(self) -> list[tuple[float, float]]:
        """95 % intervals of (E, A_1, ..., a_1, ...)."""
        return [(float(low), float(high)) for low, high in np.percentile(self.draws, LEVELS, axis=0).T]


def fit_scaling(
    sizes: Sequence[Sequence[float]] | Vector, losses: Sequence[float] | Vector, outliers: int = 0, seed: int = 0
) -> Scaling:
    """Fits L = E + sum_k A_k x_k^-a_k to runs of sizes (n, k) and losses (n,).

    The `outliers` runs of the largest residuals are left out, and the rest is fitted again.  Raises InputError if there
    are too few runs for the parameters, or values that are not positive and finite.
    """
    x, y = np.asarray(sizes, np.float64), np.asarray(losses, np.float64)
    if x.ndim != 2 or len(x) != len(y) or not (np.isfinite(x).all() and np.isfinite(y).all() and (x > 0).all()):
        raise InputError("A scaling law is fitted to sizes above 0 and finite losses, one row a run.")
    if (y <= 0).any():
        raise InputError(f"A scaling law is fitted to losses above 0, and the smallest is {y.min():g}.")
    needed = 1 + 2 * x.shape[1]
    distinct = len(np.unique(x, axis=0))
    if distinct < needed or len(y) - outliers < needed:
        raise InputError(f"{distinct} sizes are too few for a law of {needed} parameters; give {needed} sizes or more.")
    scale = np.exp(np.log(x).mean(0))  # the factors of scaled sizes are near each other
    values = _search(x / scale, y)
    left_out: tuple[int, ...] = ()
    if outliers:
        residuals = np.abs(np.log(y) - np.log(_evaluate(values[None], x / scale)[0]))
        left_out = tuple(sorted(np.argsort(residuals)[-outliers:].tolist()))
        x, y = np.delete(x, left_out, 0), np.delete(y, left_out)
        values = _search(x / scale, y)
    counts = np.random.default_rng(seed).multinomial(len(y), np.full(len(y), 1 / len(y)), DRAWS).astype(np.float64)
    draws = _refine(np.tile(values, (DRAWS, 1)), x / scale, y, counts)
    residuals = np.log(y) - np.log(_evaluate(values[None], x / scale)[0])
    values, draws = _unscale(values[None], scale)[0], _unscale(draws, scale)
    terms = x.shape[1]
    return Scaling(
        float(values[0]),
        tuple(values[1 : 1 + terms].tolist()),
        tuple(values[1 + terms :].tolist()),
        draws,
        tuple(x.min(0).tolist()),
        tuple(x.max(0).tolist()),
        float(np.sqrt(np.square(residuals).mean())),
        left_out,
    )


def find_reach(scaling: Scaling, tolerance: float = TOLERANCE) -> float:
    """The largest x_1 to which a law of one size may be extrapolated.

    The interval of the loss there is at most `tolerance` of it to each side, and x_1 is at most as many times the
    largest in the data as that is of the smallest.
    """
    low, high = scaling.lowest[0], scaling.highest[0]

    def is_known(log_x: float) -> bool:
        x = math.exp(log_x)
        ends = scaling.predict_interval(x)
        return (ends[1] - ends[0]) / 2 <= tolerance * scaling.predict(x)

    reach = math.log(high)
    for step in np.linspace(math.log(high), math.log(high) + math.log(high / low), 65).tolist():
        if not is_known(step):
            break
        reach = step
    return math.exp(reach)


def find_crossing(
    first: Scaling, second: Scaling, most: float | None = None
) -> tuple[float, float, float, float] | None:
    """The compute at which two laws of one size cross: (compute, low, high, share), up to `most` (default: the reach).

    `share` is the share of paired draws of the bootstrap that cross there, (low, high) the 95 % interval of those.
    None if the fitted laws do not cross between the smallest compute in the data and `most`.
    """
    low = max(first.lowest[0], second.lowest[0])
    high = most or min(find_reach(first), find_reach(second))
    grid = np.geomspace(low, high, 513)
    crossings = _crossings(
        _evaluate(first.values[None], grid[:, None]) - _evaluate(second.values[None], grid[:, None]), grid
    )
    drawn = _crossings(_evaluate(first.draws, grid[:, None]) - _evaluate(second.draws, grid[:, None]), grid)
    if not np.isfinite(crossings[0]):
        return None
    crossed = drawn[np.isfinite(drawn)]
    ends = np.percentile(crossed, LEVELS) if len(crossed) else (math.nan, math.nan)
    return float(crossings[0]), float(ends[0]), float(ends[1]), len(crossed) / len(drawn)


def find_optimum(scaling: Scaling, flops: float, per_token: float = 6.0) -> tuple[float, float]:
    """The parameters N and tokens D of least loss with `flops` = per_token N D, of a law of (N, D).

    N = G (C / per_token)^(b / (a + b)), G = (a A / (b B))^(1 / (a + b)); arXiv:2203.15556, equation 4.
    """
    (a_factor, b_factor), (a, b) = scaling.factors, scaling.exponents
    size = (a * a_factor / (b * b_factor)) ** (1 / (a + b)) * (flops / per_token) ** (b / (a + b))
    return size, flops / per_token / size


def find_parabola(sizes: Sequence[float], losses: Sequence[float]) -> float:
    """The size of least loss by a parabola in log(size), over runs of equal compute; NaN if it opens downwards."""
    curve, slope, _ = np.polyfit(np.log(sizes), losses, 2)
    return float(np.exp(-slope / (2 * curve))) if curve > 0 else math.nan


def find_parabola_bias(scaling: Scaling, sizes: Sequence[float], flops: float, per_token: float = 6.0) -> float:
    """The parabola's size of least loss over the law's own: what the shape of the law alone does at these sizes."""
    losses = [scaling.predict(size, flops / per_token / size) for size in sizes]
    return find_parabola(sizes, losses) / find_optimum(scaling, flops, per_token)[0]


def _evaluate(values: Vector, x: Vector) -> Vector:
    """Losses (draws, n) of the rows of values at sizes x (n, k)."""
    terms = x.shape[1]
    floor, factors, exponents = values[:, :1], values[:, 1 : 1 + terms], values[:, 1 + terms :]
    return floor + np.einsum("sk,snk->sn", factors, np.exp(-exponents[:, None] * np.log(x)[None]))


def _unscale(values: Vector, scale: Vector) -> Vector:
    terms = len(scale)
    factors = values[:, 1 : 1 + terms] * np.exp(values[:, 1 + terms :] * np.log(scale))
    return np.concatenate([values[:, :1], factors, values[:, 1 + terms :]], 1)


def _search(x: Vector, y: Vector) -> Vector:
    """The values of least loss: a grid of exponents, the simplex from its best point, Gauss-Newton at the end."""

    def project(exponents: Vector) -> tuple[float, Vector]:
        """The least Huber loss for fixed exponents, and E and A of it."""
        columns = np.concatenate([np.ones((len(y), 1)), np.exp(-exponents * np.log(x))], 1) / y[:, None]
        weights = np.ones(len(y))
        solution, residuals = np.zeros(columns.shape[1]), np.zeros(len(y))
        for _ in range(REWEIGHTED):
            root = np.sqrt(weights)[:, None]
            solution, _ = scipy.optimize.nnls(columns * root, root[:, 0])
            residuals = np.log(np.maximum(columns @ solution, 1e-12))
            # log r is near r - 1; the weights carry the difference
            weights = np.minimum(1, DELTA / np.maximum(np.abs(residuals), 1e-12))
        return float(_huber(residuals).sum()), solution

    def lose(log_exponents: Vector) -> float:
        return project(np.exp(np.clip(log_exponents, -7, 3)))[0]

    grids = np.meshgrid(*[EXPONENTS] * x.shape[1], indexing="ij")
    best = min(np.stack(grids, -1).reshape(-1, x.shape[1]), key=lambda exponents: lose(np.log(exponents)))
    minimum = scipy.optimize.minimize(
        lose, np.log(best), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-13, "maxiter": 400}
    )
    exponents = np.exp(np.clip(minimum.x, -7, 3))
    start = np.concatenate([project(exponents)[1], exponents])
    return _refine(start[None], x, y, np.ones((1, len(y))))[0]


def _huber(residuals: Vector) -> Vector:
    size = np.abs(residuals)
    return np.where(size <= DELTA, residuals**2 / 2, DELTA * (size - DELTA / 2))


def _refine(values: Vector, x: Vector, y: Vector, counts: Vector) -> Vector:
    """Levenberg-Marquardt steps on (log E, log A, log a) of every row, each run counted `counts` (rows, n) times."""
    terms = x.shape[1]
    theta = np.log(np.maximum(values, 1e-9))
    log_x, log_y = np.log(x), np.log(y)

    def compute(theta: Vector) -> tuple[Vector, Vector, Vector]:
        """Residuals (rows, n), their losses, and the shares of terms in the fitted loss (rows, n, 1 + k)."""
        values = np.exp(theta)
        powers = values[:, None, 1 : 1 + terms] * np.exp(-values[:, None, 1 + terms :] * log_x[None])
        parts = np.concatenate([np.broadcast_to(values[:, None, :1], (*powers.shape[:2], 1)), powers], -1)
        fitted = parts.sum(-1)
        residuals = np.log(fitted) - log_y
        return residuals, (counts * _huber(residuals)).sum(1), parts / fitted[..., None]

    damping = np.full(len(theta), 1e-3)
    residuals, losses, shares = compute(theta)
    for _ in range(STEPS):
        exponents = np.exp(theta[:, None, 1 + terms :])
        jacobian = np.concatenate([shares, -shares[..., 1:] * exponents * log_x[None]], -1)
        weights = counts * np.minimum(1, DELTA / np.maximum(np.abs(residuals), 1e-12))
        square = np.einsum("snp,sn,snq->spq", jacobian, weights, jacobian)
        slope = np.einsum("snp,sn,sn->sp", jacobian, weights, residuals)
        diagonal = np.einsum("spp->sp", square)
        damped = square + np.einsum("s,sp,pq->spq", damping, diagonal + 1e-12, np.eye(square.shape[-1]))
        step = np.clip(np.linalg.solve(damped, slope[..., None])[..., 0], -1, 1)
        tried = np.clip(theta - step, -21, 60)
        tried[:, 1 + terms :] = np.clip(tried[:, 1 + terms :], -7, 3)
        new_residuals, new_losses, new_shares = compute(tried)
        better = new_losses <= losses
        theta = np.where(better[:, None], tried, theta)
        residuals = np.where(better[:, None], new_residuals, residuals)
        shares = np.where(better[:, None, None], new_shares, shares)
        losses = np.where(better, new_losses, losses)
        damping = np.clip(np.where(better, damping / 5, damping * 7), 1e-12, 1e9)
    return np.exp(theta)


def _crossings(differences: Vector, grid: Vector) -> Vector:
    """The first point of the grid where each row changes its sign, between points by log; NaN if it does not."""
    crossings = np.full(len(differences), math.nan)
    for row, values in enumerate(differences):
        changes = np.flatnonzero(np.sign(values[1:]) != np.sign(values[:-1]))
        if len(changes):
            left = int(changes[0])
            share = values[left] / (values[left] - values[left + 1])
            crossings[row] = math.exp(math.log(grid[left]) + share * math.log(grid[left + 1] / grid[left]))
    return crossings
