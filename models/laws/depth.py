"""Laws of depth: residuals, scans over layers, recomputed activations."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from models.context import Context
from models.contracts import Tree
from models.depth.stack import Stack, UnlikeRepeatsError, scanned, unrolled
from models.laws.carrier import BRANCHES, LAYERS, chain, expand_stream, parameters_of, reduce_state
from models.laws.inputs import WIDTH, Component, name_tokens, normal, parameters, random_like
from models.laws.verdict import NotTestedError, require, require_equal_trees
from models.structure import replace

ROUNDED = 1e-3  # relative to a gradient's largest value: recurrences reach 4e-4 in another order of sums


def stream() -> jax.Array:
    """Two rows of six tokens."""
    return normal(1, 2, 6, WIDTH)


def context() -> Context:
    """Their context: two examples of three tokens; one of five and padding."""
    segments = jnp.array([[1, 1, 1, 2, 2, 2], [1, 1, 1, 1, 1, 0]])
    return Context(positions=jnp.arange(6)[None], segments=segments, tokens=name_tokens(stream()))


def law_zero_branch_leaves_the_state(residual: Component) -> None:
    """A branch of zeros leaves the state as it is."""
    state = residual.apply({"params": parameters(residual)}, stream(), lambda x: 0 * x, Context())
    require(np.array_equal(state, stream()), "a branch of zeros changes the state")


def law_residual_keeps_the_shape_of_the_state(residual: Component) -> None:
    """The state has the same shapes after a branch as before, and ends as (b, t, d)."""
    state = expand_stream(residual, stream(), Context())
    new = jax.eval_shape(lambda: residual.apply({"params": parameters(residual)}, state, jnp.sin, Context()))
    before, after = jax.tree.map(jnp.shape, state), jax.tree.map(jnp.shape, new)
    require(before == after, f"a state of shape {before} became one of shape {after}")
    back = reduce_state(residual, state, Context())
    require(back.shape == stream().shape, f"the stream of shape {stream().shape} ends with shape {back.shape}")


def law_every_branch_counts(residual: Component) -> None:
    """The output depends on every branch of every block, and on the stream, in a model of three blocks."""

    params = parameters_of(residual)

    def end(changes: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.vdot(normal(2, *stream().shape), chain(residual, params, x, context(), changes))

    by_branch, by_stream = jax.jit(jax.grad(end, argnums=(0, 1)))(
        jnp.zeros((LAYERS, BRANCHES, *stream().shape)), stream()
    )
    for index, size in np.ndenumerate(np.abs(by_branch).max((2, 3, 4))):
        require(
            size > 1e-6,
            f"the output does not depend on branch {index[1]} of block {index[0]} of {LAYERS}, counted from 0",
        )
    require(np.abs(by_stream).max() > 1e-6, "the output does not depend on the stream")


@functools.lru_cache(maxsize=32)
def _loop_parameters(stack: Component) -> Tree:
    return random_like(jax.eval_shape(stack.init, jax.random.key(0), stream(), context()).get("params", {}))


def loop_parameters(stack: Component) -> Tree:
    """Random parameters of a stack that is a loop."""
    return _loop_parameters(stack)


def outputs_and_gradients(stack: Component, params: Tree, train: bool = False) -> tuple[jax.Array, Tree]:
    """Outputs of a stack, and the gradient of a random projection of them."""

    def loss(params: Tree) -> tuple[jax.Array, jax.Array]:
        y = stack.apply(
            {"params": params},
            stream(),
            dataclasses.replace(context(), train=train),
            rngs={"dropout": jax.random.key(1)},
        )
        return jnp.vdot(normal(2, *stream().shape), y), y

    (_, y), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return y, gradients


@functools.lru_cache(maxsize=32)
def _run_loop(stack: Component) -> tuple[jax.Array, Tree]:
    return outputs_and_gradients(stack, loop_parameters(stack))


def run_loop(stack: Component) -> tuple[jax.Array, Tree]:
    """Outputs and gradients of a stack that is a loop."""
    return _run_loop(stack)


def law_scan_equals_loop(stack: Stack) -> None:
    """A scan over layers has the outputs and gradients of the loop over them.

    If later layers compute something else, because the first gives them something, the first stands before the scan.
    """
    params, scan = loop_parameters(stack), replace(stack, "scan", True)
    kept = {jax.tree.structure(leaf) for name, leaf in params.items() if name.startswith("layer_")}
    if len(kept) > len(stack.pattern):
        raise NotTestedError(
            "layers have different parameters, which no scan can stack: the first stands in the stack's prefix"
        )
    try:
        again, scanned_gradients = outputs_and_gradients(scan, scanned(params, stack))
    except UnlikeRepeatsError as error:
        if stack.prefix:
            raise NotTestedError(str(error)) from None
        law_scan_equals_loop(replace(stack, "prefix", stack.pattern))
        return
    y, gradients = run_loop(stack)
    require_equal_trees(again, y, words="output")
    require_equal_trees(unrolled(scanned_gradients, scan), gradients, ROUNDED, words="gradient of")


@functools.lru_cache(maxsize=8)
def _train_once(plain: Component) -> tuple[Tree, tuple[jax.Array, Tree]]:
    assert isinstance(plain, Stack)
    looped = loop_parameters(replace(plain, "scan", False))
    params = scanned(looped, plain) if plain.scan else looped
    return params, outputs_and_gradients(plain, params, train=True)


def train_once(plain: Component) -> tuple[Tree, tuple[jax.Array, Tree]]:
    """A stack's parameters, and its outputs and gradients in training."""
    return _train_once(plain)


def law_recomputing_changes_nothing(stack: Stack, plain: Stack) -> None:
    """`remat` changes neither outputs nor gradients."""
    params, (y, gradients) = train_once(plain)
    again, recomputed = outputs_and_gradients(stack, params, train=True)
    require_equal_trees(again, y, words="output")
    require_equal_trees(recomputed, gradients, words="gradient of")
