"""Verdicts of laws: the index and size of a violation, or the reason that a law was not tested."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from models.contracts import Tree
from models.paths import path_name

TOLERANCE = 1e-4  # of outputs that are computed in two ways
WORST = 1e-2  # that is allowed for rounding
DRAWS = 3  # of inputs that differ in their last bits


class BrokenLawError(AssertionError):
    """A law does not hold; the message gives the index and the size of the violation."""


class NotTestedError(Exception):
    """A law was not tested; the message gives the reason."""


class Law(NamedTuple):
    """A law that applies to a component.

    `test()` raises one of the two above; `remedy` says what to do about a broken law.
    """

    name: str
    test: Callable[[], None]
    remedy: str


class Verdict(NamedTuple):
    """The outcome of a law: "holds", "broken" or "not tested"; location and size, or the reason; the remedy."""

    law: str
    verdict: str
    where: str = ""
    remedy: str = ""


def name_of(law: Callable[..., object]) -> str:
    """The name of a law from that of its function, as models/README.md lists it."""
    return law.__name__.removeprefix("law_").replace("_", " ")


def require(condition: object, words: str) -> None:
    """Raises BrokenLawError with these words unless the condition is true."""
    if not condition:
        raise BrokenLawError(words)


def require_close(
    actual: ArrayLike, expected: ArrayLike, tolerance: float = 1e-4, words: str = "", relative: float = 0.0
) -> None:
    """Raises BrokenLawError at the largest difference unless |actual - expected| <= tolerance + relative |expected|."""
    left, right = (np.asarray(value, np.float64) for value in (actual, expected))
    prefix = f"{words}: " if words else ""
    require(left.shape == right.shape, f"{prefix}shape {left.shape} instead of {right.shape}")
    require(
        np.isfinite(left).all() or not np.isfinite(right).all(),
        f"{prefix}not finite at index {_first(~np.isfinite(left))}",
    )
    excess = np.where(left == right, 0.0, np.abs(left - right)) - relative * np.abs(right)
    if excess.size and not excess.max() <= tolerance:
        index = np.unravel_index(np.nanargmax(excess), excess.shape)
        raise BrokenLawError(
            f"{prefix}{left[index]:.4g} instead of {right[index]:.4g}, at index {tuple(map(int, index))}"
        )


def require_up_to_rounding(
    compare: Callable[[float], None], function: Callable[[np.ndarray], ArrayLike], x: np.ndarray
) -> None:
    """Compares with a tolerance of 1e-4, and where that fails adds what rounding does to a function at x.

    Sums in another order may move the outputs of an ill-conditioned layer further than 1e-4, such as one that divides
    by a number near 0: as far as inputs do that differ in their last bits.  At most 1e-2 is allowed for that.
    """
    try:
        compare(TOLERANCE)
    except BrokenLawError:
        compare(TOLERANCE + min(measure_rounding(function, x), WORST))


def measure_rounding(function: Callable[[np.ndarray], ArrayLike], x: np.ndarray) -> float:
    """Measures the largest change of outputs if every input changes by 2^-22 of itself, up or down at random."""
    exact, draw = np.asarray(function(x), np.float64), np.random.default_rng(0)
    changed = (x * (1 + 2.0**-22 * draw.choice((-1, 1), (DRAWS, *x.shape)))).astype(x.dtype)
    return max(float(np.nanmax(np.abs(np.asarray(function(each), np.float64) - exact))) for each in changed)


def require_equal_trees(actual: Tree, expected: Tree, tolerance: float = 1e-4, words: str = "") -> None:
    """Raises BrokenLawError, naming leaf and index, unless two trees are equal up to a tolerance.

    Each leaf may differ by tolerance * (1 + its largest value).
    """
    kept = jax.tree.structure(actual) == jax.tree.structure(expected)
    require(kept, f"{words}: leaves {names_of(actual)} instead of {names_of(expected)}")
    for (path, left), right in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        wide = np.abs(np.asarray(right, np.float64))
        require_close(
            left, right, tolerance * (1 + float(wide.max(initial=0))), " ".join(filter(None, (words, path_name(path))))
        )


def names_of(tree: Tree) -> str:
    """The paths of a tree's leaves."""
    return ", ".join(path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)) or "none"


def require_finite(tree: Tree, words: str) -> None:
    """Raises BrokenLawError, naming leaf and index, unless every number of a tree is finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        wide = np.asarray(leaf)
        if jnp.issubdtype(wide.dtype, jnp.inexact):
            finite = np.isfinite(wide.astype(np.float32))
            require(finite.all(), f"{words} {path_name(path)} is not finite at index {_first(~finite)}")


def _first(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(map(int, np.unravel_index(np.argmax(mask), np.shape(mask))))
