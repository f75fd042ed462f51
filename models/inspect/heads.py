"""Scores of patterns that attention heads follow: from attention weights (b, h, t, t) to one number a head."""

import jax
import jax.numpy as jnp


def score_previous_token(weights: jax.Array, segments: jax.Array | None = None) -> jax.Array:
    """The mean weight of the token before: mean over t of A[t, t - 1], (h,).

    Over tokens with one before them in their segment.  Previous-token heads, Elhage et al. 2021, A mathematical
    framework for transformer circuits.
    """
    _require_square(weights)
    t = weights.shape[-1]
    return _mean_weight(weights, jnp.eye(t, k=-1, dtype=bool)[None], segments)


def score_induction(weights: jax.Array, tokens: jax.Array, segments: jax.Array | None = None) -> jax.Array:
    """The mean weight of what followed the same token before: mean over t of sum of A[t, j + 1], tokens j = t, (h,).

    j < t runs over the earlier occurrences of token t; the mean is over tokens that have one.  Olsson et al. 2022,
    arXiv:2209.11895, who measure it on repeated random tokens.
    """
    _require_square(weights)
    same = _match_earlier(tokens)
    after = jnp.pad(same[:, :, :-1], ((0, 0), (0, 0), (1, 0)))  # source j + 1, which is t at most
    return _mean_weight(weights, after, segments)


def score_duplicate_token(weights: jax.Array, tokens: jax.Array, segments: jax.Array | None = None) -> jax.Array:
    """The mean weight of earlier occurrences of the same token: mean over t of the sum of A[t, j], (h,).

    Duplicate-token heads, Wang et al. 2022, arXiv:2211.00593.
    """
    _require_square(weights)
    return _mean_weight(weights, _match_earlier(tokens), segments)


def _match_earlier(tokens: jax.Array) -> jax.Array:
    """(b, t) -> (b, t, s), true where token s is earlier than token t and the same."""
    return (tokens[:, :, None] == tokens[:, None]) & jnp.tri(tokens.shape[1], k=-1, dtype=bool)


def _mean_weight(weights: jax.Array, looked: jax.Array, segments: jax.Array | None) -> jax.Array:
    if segments is not None:
        looked = looked & (segments[:, :, None] == segments[:, None]) & (segments > 0)[:, None]
    looked = jnp.broadcast_to(looked, (weights.shape[0], *looked.shape[1:]))
    some = looked.any(-1)
    return jnp.einsum("bhts,bts->h", weights.astype(jnp.float32), looked) / jnp.maximum(some.sum(), 1)


def _require_square(weights: jax.Array) -> None:
    if weights.ndim != 4 or weights.shape[2] != weights.shape[3]:
        raise ValueError(
            f"Attention weights have shape {weights.shape}; heads are scored on (b, h, t, t), of layers that see the"
            " whole row."
        )
