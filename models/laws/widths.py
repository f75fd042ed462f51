"""A law of widths: in muP, updates change a model as much whatever its width."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models.contracts import Tree
from models.depth.stack import Stack
from models.embed.tokens import TokenEmbed
from models.head.logits import LogitsHead
from models.laws.inputs import VOCAB, tokens
from models.laws.verdict import BrokenLawError, require, require_finite
from models.parametrization import initialised, roles
from models.roles import Role
from models.structure import replace
from models.transformer import Transformer

NARROW, WIDE = 16, 64
RATE, MOST = 0.01, 2.5  # a step that grows as width does changes outputs 4 times as much or more


def measure_change(stack: Stack, width: int) -> float:
    """The RMS change of the logits by one step of signed gradient descent at muP's rates."""
    model = Transformer(
        TokenEmbed(VOCAB, width), stack, LogitsHead(), parametrization="mup", base_width=NARROW, base_depth=stack.depth
    )
    batch = {
        "tokens": tokens(1, 4, 8),
        "segments": jnp.ones((4, 8), jnp.int32),
        "positions": jnp.tile(jnp.arange(8), (4, 1)),
    }
    try:
        known, params = roles(model, batch), jax.jit(lambda: initialised(model, jax.random.key(0), batch)["params"])()
    except ValueError as error:
        raise BrokenLawError(str(error)) from None

    @jax.jit
    def update(params: Tree) -> tuple[jax.Array, Tree]:
        def loss(params: Tree) -> tuple[jax.Array, jax.Array]:
            logits = jnp.asarray(model.apply({"params": params}, batch))
            return optax.softmax_cross_entropy_with_integer_labels(logits, tokens(2, 4, 8)).mean(), logits

        gradient, before = jax.grad(loss, has_aux=True)(params)

        def step(leaf: jax.Array, slope: jax.Array, role: Role) -> jax.Array:
            return leaf - RATE / (role.growth.fan_in if role.growth else 1) * jnp.sign(slope)

        _, after = loss(jax.tree.map(step, params, gradient, known))
        return jnp.sqrt(jnp.square(after - before).mean()), gradient

    size, gradient = update(params)
    require_finite(gradient, f"at width {width} the gradient of")
    return float(size)


def law_updates_keep_their_size_over_widths(stack: Stack) -> None:
    """muP: a step changes the outputs of a model four times as wide about as much.  arXiv:2203.03466."""
    stack = replace(stack, "repeats", 1)
    narrow, wide = measure_change(stack, NARROW), measure_change(stack, WIDE)
    words = f"one step in muP changes logits by {narrow:.3g} at width {NARROW} and by {wide:.3g} at width {WIDE}"
    require(np.isfinite(wide) and wide <= MOST * narrow, words)
