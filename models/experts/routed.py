"""Mixture of experts: each token is routed to few of many feedforwards, and only these cost FLOPs."""

import functools
from typing import Literal

import flax.linen as nn
import jax

from models.activation import silu
from models.context import Context
from models.contracts import Activation, Router
from models.experts.grouped import apply_experts, block_sizes, glu_kernels
from models.experts.routing import Loads, SoftmaxRouter, count_choices, mask_padding, report
from models.feedforward import GLU
from models.structure import require_positive


class Experts(nn.Module):
    """sum over the `active` experts that the router chooses of weight * GLU_e(x), plus `shared` experts for all tokens.

    (b, t, d) -> (b, t, d).  arXiv:1701.06538; experts many and small, some of them shared: DeepSeekMoE,
    arXiv:2401.06066. No token is dropped (arXiv:2211.15841): tokens are sorted by expert.  `dispatch` "ragged"
    multiplies the sorted groups by `jax.lax.ragged_dot`; "blocks" takes one expert after the other, its group in blocks
    of the size that pads it least; "auto" is blocks on CPU and ragged elsewhere.  Both give the same.  Sows its load,
    of which a step logs load_entropy and largest_load, both 1 for equal loads; padding counts in neither.
    """

    experts: int = 8
    active: int = 2
    expand: float = 4 / 3  # hidden width of one expert over d
    shared: int = 0
    activation: Activation = silu
    router: Router = SoftmaxRouter()
    dispatch: Literal["auto", "ragged", "blocks"] = "auto"

    def __post_init__(self) -> None:
        require_positive(self, "experts", "active", "expand")
        if self.active > self.experts:
            raise ValueError(
                f"Experts has {self.active} active of {self.experts} experts; a token can pass through each once."
            )
        if self.dispatch not in ("auto", "ragged", "blocks"):
            raise ValueError(f"Experts.dispatch is {self.dispatch!r}; give 'auto', 'ragged' or 'blocks'.")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        tokens, e = x.reshape(-1, x.shape[-1]), self.experts
        weights, chosen = self.router(x, ctx.segments, e, self.active)
        report(self, "metrics", "load", Loads(count_choices(chosen, mask_padding(x, ctx.segments), e)))
        weights, chosen = weights.reshape(-1, self.active), chosen.reshape(-1, self.active)
        hidden = round(self.expand * x.shape[-1])
        kernels, sizes = glu_kernels(self, e, x.shape[-1], hidden), block_sizes(chosen.size / e)
        run = functools.partial(apply_experts, tokens, weights, chosen, kernels, self.activation)
        ways = {"ragged": functools.partial(run, None), "blocks": functools.partial(run, sizes)}
        # decided at lowering: the program's platform need not be the process's
        if self.dispatch == "auto":
            y = jax.lax.platform_dependent(cpu=ways["blocks"], default=ways["ragged"]).reshape(x.shape)
        else:
            y = ways[self.dispatch]().reshape(x.shape)
        if self.shared:
            y = y + GLU(self.shared * hidden / x.shape[-1], self.activation, name="shared")(x, ctx)
        return y
