"""Faults of one line in the strangers' files, each with the law that names it."""

from typing import NamedTuple


class Fault(NamedTuple):
    """In `file` the text `old`, which stands there once, becomes `new`; `law` is broken, and none but `with_it`
    besides.
    """

    name: str
    file: str
    old: str
    new: str
    law: str


OUT = '        return nn.Dense(d, use_bias=False, name="out")(y)\n'
FRESH = "jnp.broadcast_to(positions == 0, (b, t))"
CAUSAL, PACKED, ROWS = "causal sees nothing later", "segments do not mix", "rows do not mix"


def looking_ahead(where: str) -> str:
    """The last line of TTTLinear, with y_t + y_{t + 1} at some tokens."""
    return f"        y = jnp.where(({where})[:, None], y + jnp.roll(y, -1, 1), y)\n" + OUT


FAULTS = (
    Fault(
        "leak_at_each_16th_token",
        "sound_ttt",
        OUT,
        looking_ahead("(jnp.arange(t) % 16 == 15) & (jnp.arange(t) < t - 1)"),
        CAUSAL,
    ),
    Fault(
        "leak_behind_64_tokens",
        "sound_ttt",
        OUT,
        looking_ahead("(jnp.arange(t) >= 64) & (jnp.arange(t) < t - 1)"),
        CAUSAL,
    ),
    Fault(
        "leak_behind_256_tokens",
        "sound_ttt",
        OUT,
        looking_ahead("(jnp.arange(t) >= 256) & (jnp.arange(t) < t - 1)"),
        CAUSAL,
    ),
    Fault("wrong_cache_index", "sound_ttt", "states[-1]", "states[0]", "decoding is one pass"),
    Fault("mix_across_segments", "sound_ttt", FRESH, "jnp.zeros((b, t), bool)", PACKED),
    Fault("reset_at_the_start_of_the_row", "sound_ttt", FRESH, "jnp.broadcast_to(jnp.arange(t) == 0, (b, t))", PACKED),
    Fault(
        "float32_constant",
        "sound_ttt",
        OUT,
        OUT.replace("(y)", "(y) * jnp.float32(0.5)"),
        "floats stay in their type",
    ),
    Fault(
        "python_state",
        "sound_ttt",
        OUT,
        OUT.replace("(y)", "(y) * len(CALLS)").replace("        return", "        CALLS.append(t)\n        return", 1)
        + "\n\nCALLS = []\n",
        "calling again changes nothing",
    ),
    Fault(
        "parameters_shared_between_parts",
        "sound_ttt",
        "    query_norm: nn.Module | None = None\n    key_norm: nn.Module | None = None\n",
        "    query_norm: nn.Module | None = (ONE := nn.RMSNorm())\n    key_norm: nn.Module | None = ONE\n",
        "equal components have equal parameters",
    ),
    Fault(
        "scale_of_the_batch", "sound_peer", "nn.gelu(jnp", "nn.gelu(jax.lax.stop_gradient(jnp.abs(x).max()) * jnp", ROWS
    ),
    Fault(
        "nan_gradient_at_zero",
        "sound_peer",
        'jnp.einsum("btd,bthkd->bthk", x, down)',
        'jnp.einsum("btd,bthkd->bthk", x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6), down)',
        "gradients at zero are finite",
    ),
    Fault(
        "branch_dropped_in_one_block",
        "sound_attn_res",
        "branch(read)",
        "branch(read) * (ctx.layer != 2)",
        "every branch counts",
    ),
    Fault(
        "state_that_shrinks",
        "sound_attn_res",
        "given, place, 2)",
        "given, place, 2)[:, :, :-1]",
        "residual keeps the shape of the state",
    ),
    Fault(
        "batch_statistics",
        "sound_derf",
        "slope * wide + shift",
        "slope * (wide - wide.mean(0)) + shift",
        "norm acts on each vector alone",
    ),
    Fault(
        "parameter_without_effect", "sound_derf", "wide + shift", "wide + 0 * shift", "every parameter has a gradient"
    ),
)
