"""Kernels in a traced program: which are called, how often, and the gradients through them."""

import contextlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn
from jax.interpreters.partial_eval import dce_jaxpr

from models import Attention, Context
from models.backend import kernels
from models.contracts import Tree
from models.laws.inputs import Component
from tests.laws.components import normal
from train.parallel import Mesh

X = normal(0, 2, 256, 16)


def segments(kind: str, length: int) -> jax.Array | None:
    """Two rows: of examples 1 and 2, or one of them with padding at the end."""
    if not kind:
        return None
    rows = np.ones((2, length), np.int32)
    rows[0, length // 2 :] = 2
    rows[1, length // 3 :] = 2
    if kind == "padded":
        rows[0, -length // 5 :] = 0
    return jnp.asarray(rows)


def equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """All equations of a jaxpr, those of inner ones after their own; of a kernel only its call."""
    for equation in jaxpr.eqns:
        yield equation
        if equation.primitive.name != "pallas_call":
            for leaf in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda value: hasattr(value, "eqns")):
                yield from equations(getattr(leaf, "jaxpr", leaf)) if hasattr(leaf, "eqns") else ()


def gradient(layer: Component, params: Tree, batch: dict[str, Tree]) -> tuple[jax.Array, Tree]:
    """Value and gradient of a sum of squares over a batch of x (b, t, d) and segments."""

    def total(params: Tree) -> jax.Array:
        return (jnp.asarray(layer.apply(params, batch["x"], Context(segments=batch["segments"]))) ** 2).mean()

    return jax.value_and_grad(total)(params)


SPLASH = Attention(2, causal=True, implementation="splash")


def kernel_calls(policy: Callable[..., bool] | None, scan: bool, meshed: bool, layer: Component = SPLASH) -> int:
    """Counts the kernels that the gradient of two rematerialised layers calls, dead code left out."""
    params = layer.init(jax.random.key(0), X, Context())
    apply = jax.checkpoint(
        lambda x: jnp.asarray(layer.apply(params, x, Context())), policy=policy, prevent_cse=not scan
    )

    def loss(x: jax.Array) -> jax.Array:
        if scan:
            return jax.lax.scan(lambda x, _: (apply(x), None), x, length=2)[0].sum()
        return apply(apply(x)).sum()

    def computed(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        with jax.sharding.use_abstract_mesh(Mesh().mesh().abstract_mesh) if meshed else contextlib.nullcontext():
            return jax.value_and_grad(loss)(x)

    live, _ = dce_jaxpr(jax.make_jaxpr(computed)(X).jaxpr, [True, True])
    return sum(equation.primitive.name == "pallas_call" for equation in equations(live))


NAMED = jax.checkpoint_policies.save_only_these_names(kernels.SAVED)
