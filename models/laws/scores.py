"""Laws of what acts on attention scores: relative positions and weighings."""

import jax
import jax.numpy as jnp
import numpy as np

from models.attention.weigh import HIDDEN
from models.laws.inputs import Component, draw, parameters
from models.laws.verdict import require, require_close

HEADS, T, S = 4, 5, 7
SCORES, QUERY = draw(1, 2, HEADS, T, S), draw(2, 2, HEADS, T, 4)
POSITIONS, SOURCES = (
    np.array([[[2, 3, 4, 5, 6]], [[0, 1, 40, 90, 300]]]),
    np.array([[[0, 1, 2, 3, 4, 5, 6]], [[0, 1, 17, 40, 41, 90, 500]]]),
)
VISIBLE = np.arange(S) <= np.arange(T)[:, None] + 2


def law_hidden_stays_hidden(form: Component) -> None:
    """A hidden pair keeps a weight of zero, and its positions change no other score."""
    scores = jnp.where(VISIBLE, SCORES, HIDDEN)
    biased = form.apply(
        {"params": parameters(form)}, scores, jnp.asarray(QUERY), jnp.asarray(POSITIONS), jnp.asarray(SOURCES)
    )
    weight = np.asarray(jax.nn.softmax(biased, -1))[..., ~VISIBLE].max()
    require(weight == 0, f"a hidden pair has weight {weight:.3g} after the softmax")
    changed = form.apply(
        {"params": parameters(form)},
        scores,
        jnp.asarray(QUERY),
        jnp.asarray(POSITIONS),
        np.where(VISIBLE[-1], SOURCES, 9),
    )
    require_close(
        np.asarray(changed)[..., VISIBLE], np.asarray(biased)[..., VISIBLE], 0.0, "scores after hidden sources moved"
    )


def law_hidden_sources_get_no_weight(weigh: Component) -> None:
    """Hidden sources have weight zero and change no other weight; a row that sees nothing has finite weights."""
    visible = jnp.asarray(np.where(np.arange(T)[:, None] == 1, False, VISIBLE))[None, None]
    weights = np.asarray(weigh.apply({"params": parameters(weigh)}, jnp.asarray(SCORES), visible))
    require(weights.shape == SCORES.shape, f"scores of shape {SCORES.shape} gave weights of shape {weights.shape}")
    require(np.isfinite(weights).all(), "a row that sees nothing has weights that are not finite")
    rows = np.arange(T) != 1
    hidden = np.abs(weights)[..., rows, :][..., ~VISIBLE[rows]].max()
    require(hidden == 0, f"a hidden source has weight {hidden:.3g}")
    moved = np.asarray(weigh.apply({"params": parameters(weigh)}, jnp.where(VISIBLE, SCORES, 9.0), visible))
    require_close(moved[..., rows, :], weights[..., rows, :], 1e-6, "weights after hidden scores changed")
