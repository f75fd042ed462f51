"""Depth that each token chooses: a tied pattern of blocks, repeated until its halting unit says that it is enough."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.context import Context
from models.contracts import Tree
from models.depth.stack import Pattern, Stack
from models.experts.routing import TokenLoss, count_own, mask_padding, report
from models.structure import require_not_negative
from models.words import join


class AdaptiveStack(Stack):
    """Stack whose tied pattern runs `repeats` times at most for each token, with learned halting: y = sum_n p_n s_n.

    Adaptive computation time (arXiv:1603.08983) as in the universal transformer (arXiv:1807.03819).  s_n (b, t, d) is
    the stream after repeat n and h_n = sigmoid(w . s_n + b).  A token halts at the first repeat N at which h_1 + .. +
    h_N >= 1 - `epsilon`, at the last otherwise; p_n = h_n before N, and p_N is the remainder R = 1 - (h_1 + .. +
    h_{N-1}).  Its state then stays as it is, and other tokens go on reading it.  (b, t, d) -> (b, t, d).

    Sows for every example the loss `cost` * mean(N + R) over its tokens, and the metric ponder_steps, the mean of N;
    padding counts in neither.  Gradients reach h through p and R, none through N.  b starts at 1 and `epsilon` and
    `cost` are 0.01, as in tensor2tensor, whose variant "act_accumulated" has this sum; it takes h_n from the stream
    before repeat n, and moves halted tokens on.  The paper's embeddings of steps are left out.

    All repeats are computed for all tokens, since later tokens read the halted ones at every repeat: the cost is that
    of a Stack with as many, and so is what decoding keeps.  Raises ValueError for a stack that is not tied, and for a
    residual whose state has other leaves than (b, t, ...).
    """

    tied: bool = True
    epsilon: float = 0.01
    cost: float = 0.01

    def __post_init__(self) -> None:
        require_not_negative(self, "epsilon", "cost")
        if self.epsilon >= 1:
            raise ValueError(f"AdaptiveStack.epsilon is {self.epsilon}; it must be below 1.")
        if not self.tied:
            raise ValueError("AdaptiveStack repeats one pattern and is tied; leave tied=False out, or use a Stack.")
        super().__post_init__()

    def repeat(self, state: Tree, ctx: Context) -> jax.Array:
        """The weighted mean of the streams after each repeat."""
        b, t = (x := self.pattern[0].take_stream(state, ctx)).shape[:2]
        if others := [leaf.shape for leaf in jax.tree.leaves(state) if leaf.shape[:2] != (b, t)]:
            residual = type(self.pattern[0].residual).__name__
            raise ValueError(
                f"AdaptiveStack keeps the state of tokens that halted, and the state of {residual} has the shape"
                f" {join(others)}, not ({b}, {t}, ...); use another residual, or a Stack."
            )
        zero = jnp.zeros((b, t), jnp.float32)
        progress = Progress(state, jnp.zeros(x.shape, jnp.float32), zero, zero, zero)
        progress = self.scan_repeats(Halting, progress, ctx, epsilon=self.epsilon)
        real = mask_padding(x, ctx.segments)
        ponder = jnp.where(real, self.cost * (progress.steps + progress.remainder), 0.0)
        length = t if ctx.segments is None else jax.vmap(count_own)(ctx.segments)
        report(self, "losses", "ponder", TokenLoss(ponder / length, ctx.segments))
        report(self, "metrics", "ponder_steps", (jnp.where(real, progress.steps, 0.0).sum(), real.sum()))
        return progress.output.astype(x.dtype)


class Progress(NamedTuple):
    """Tokens' state, the sum of p_n s_n so far (b, t, d), and (b, t) each: the sum of h_n, N so far, and R, 0 before N.

    A token runs until it has a remainder.
    """

    state: Tree
    output: jax.Array
    total: jax.Array
    steps: jax.Array
    remainder: jax.Array


class Halting(Pattern):
    """One repeat of a pattern for the tokens that run: (progress, ctx, index of first layer) -> (progress, None)."""

    epsilon: float = 0.01

    @nn.compact
    def __call__(self, state: Progress, ctx: Context, layer: jax.Array | int) -> tuple[Progress, None]:
        before, running = state, state.remainder == 0

        def keep_halted(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(running.reshape(*running.shape, *[1] * (new.ndim - 2)), new, old)

        after = jax.tree.map(keep_halted, super().__call__(before.state, ctx, layer)[0], before.state)
        x = self.blocks[0].take_stream(after, ctx).astype(jnp.float32)
        unit = nn.Dense(1, bias_init=nn.initializers.ones, dtype=jnp.float32, name="halt")
        chance = nn.sigmoid(unit(x.reshape(-1, x.shape[-1]))).reshape(running.shape)
        total = before.total + chance
        last = layer + len(self.blocks) >= ctx.depth
        remainder = jnp.where(last | (total >= 1 - self.epsilon), 1 - before.total, 0.0)
        weight = jnp.where(running, jnp.where(remainder > 0, remainder, chance), 0.0)
        return Progress(
            after,
            before.output + weight[..., None] * x,
            jnp.where(running, total, before.total),
            before.steps + running,
            jnp.where(running, remainder, before.remainder),
        ), None
