"""Laws of every component of every kind."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from models.contracts import Layer, Residual, Router, Tree, kind_of
from models.laws.carrier import apply_to, parameters_of
from models.laws.declared import without_gradient
from models.laws.inputs import WIDTH, Component, arguments, normal, packed_context, parameters
from models.laws.layer import MEMORY, one_example, usable_length
from models.laws.verdict import BrokenLawError, require, require_close, require_finite
from models.paths import path_name
from models.structure import unshare

LEAST = 1e-5  # of a gradient that is not zero


def select_floats(outputs: Tree) -> list[jax.Array]:
    """The floating-point arrays of a tree."""
    return [
        leaf for leaf in jax.tree.leaves(outputs) if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
    ]


@functools.lru_cache(maxsize=256)
def program(component: Component) -> Callable[..., tuple[Tree, Tree]]:
    """(params, floats, other arrays) -> (projection, outputs) and gradients by params and floats, compiled.

    Arrays are keyed by their place among the arguments.  One program serves several laws: all arrays are its arguments.
    """
    leaves, tree = jax.tree.flatten(arguments(component))

    def project(params: Tree, floats: dict[int, jax.Array], others: dict[int, jax.Array]) -> tuple[jax.Array, Tree]:
        filled = [(floats | others).get(index, leaf) for index, leaf in enumerate(leaves)]
        outputs = component.apply({"params": params}, *tree.unflatten(filled))
        products = [jnp.vdot(normal(index, *leaf.shape), leaf) for index, leaf in enumerate(select_floats(outputs))]
        return sum(products, jnp.zeros(())), outputs

    return jax.jit(jax.value_and_grad(project, argnums=(0, 1), has_aux=True))


def arrays(component: Component) -> tuple[dict[int, jax.Array], dict[int, jax.Array]]:
    """The floating-point arrays among a component's arguments, by place, and the other arrays."""
    leaves = {
        index: leaf for index, leaf in enumerate(jax.tree.leaves(arguments(component))) if isinstance(leaf, jax.Array)
    }
    floats = {index: leaf for index, leaf in leaves.items() if select_floats(leaf)}
    return floats, {index: leaf for index, leaf in leaves.items() if index not in floats}


@functools.lru_cache(maxsize=256)
def run_compiled(component: Component) -> tuple[Tree, Tree]:
    """Outputs, and the gradient of a random projection of them by the parameters."""
    (_, outputs), (gradient, _) = program(component)(parameters(component), *arrays(component))
    return outputs, gradient


def law_compiled_equals_eager(component: Component) -> None:
    """jit(f)(x) = f(x), up to rounding."""
    eager = component.apply({"params": parameters(component)}, *arguments(component))
    outputs, _ = run_compiled(component)
    require(
        jax.tree.structure(eager) == jax.tree.structure(outputs), "the outputs are of another structure when compiled"
    )
    for left, right in zip(jax.tree.leaves(outputs), jax.tree.leaves(eager), strict=True):
        require_close(left, right, 1e-4, relative=1e-4)


def law_floats_stay_in_their_type(component: Component) -> None:
    """bfloat16 parameters and inputs give bfloat16 (of a router float32), float32 ones float32, of the same shapes."""

    def to_bfloat16(leaf: object) -> object:
        return leaf.astype(jnp.bfloat16) if isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32 else leaf

    params, args = jax.tree.map(to_bfloat16, (parameters(component), arguments(component)))
    narrow = select_floats(jax.eval_shape(lambda: component.apply({"params": params}, *args)))
    wide = select_floats(run_compiled(component)[0])
    expected = jnp.float32 if kind_of(component) is Router else jnp.bfloat16  # a router's weights are float32
    require(len(wide) == len(narrow) > 0, f"{len(wide)} arrays of floats in float32, {len(narrow)} in bfloat16")
    for full, leaf in zip(wide, narrow, strict=True):
        require(full.shape == leaf.shape, f"shape {full.shape} in float32, {leaf.shape} in bfloat16")
        require(full.dtype == jnp.float32, f"float32 became {full.dtype}, shape {full.shape}")
        require(leaf.dtype == expected, f"bfloat16 became {leaf.dtype}, shape {leaf.shape}")


def law_every_parameter_has_a_gradient(component: Component) -> None:
    """Every parameter has a finite gradient that is not zero; not so those that the class declares in `no_gradient`.

    A layer may have parameters that a short row does not reach, such as those of blocks of 32 tokens: it gets a long
    one if it needs it.
    """
    kind = kind_of(component)
    gradients = take_largest_gradients(component) if kind is Residual else run_compiled(component)[1]
    require_finite(gradients, "the gradient of")
    exempt = without_gradient(component)
    sizes = _find_sizes(gradients)
    if kind is Layer and any(size <= LEAST and name not in exempt for name, size in sizes.items()):
        longer = take_long_gradients(component)
        require_finite(longer, "the gradient in a long row of")
        sizes = {name: max(sizes[name], size) for name, size in _find_sizes(longer).items()}
    for name, size in sizes.items():
        require(size > LEAST or name in exempt, f"the largest gradient of {name} is {size:.1g}")


def _find_sizes(gradients: Tree) -> dict[str, float]:
    """The largest entry of each gradient by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(gradients)
    return {path_name(path): float(np.abs(gradient).max(initial=0)) for path, gradient in leaves}


def take_long_gradients(layer: Component) -> Tree:
    """The gradient of a random projection of the outputs for one example of `usable_length` tokens."""
    length, _ = usable_length(layer)
    x, ctx = normal(1, 1, length, WIDTH), one_example(length).context(normal(3, MEMORY, WIDTH))

    @jax.jit
    def slope(params: Tree) -> Tree:
        return jax.grad(lambda params: jnp.vdot(normal(2, 1, length, WIDTH), layer.apply({"params": params}, x, ctx)))(
            params
        )

    return slope(parameters(layer))


def take_largest_gradients(residual: Component) -> dict[str, np.ndarray]:
    """The gradient of a residual's parameters in that branch of a model of three blocks in which it is largest.

    A parameter may have nothing to do in some: the first query over earlier outputs has only one to choose.
    """
    x, ctx = arguments(residual)[0], packed_context()
    x = x if x.shape == (2, 8, WIDTH) else normal(1, 2, 8, WIDTH)

    def project(params: Tree) -> jax.Array:
        return jnp.vdot(normal(2, *x.shape), apply_to(residual, x, ctx, params))

    gradients = jax.jit(jax.grad(project))(parameters_of(residual))
    largest: dict[str, np.ndarray] = {}
    for tree in gradients.values():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name, size = path_name(path), np.asarray(leaf)
            if name not in largest or not np.abs(size).max(initial=0) <= np.abs(largest[name]).max(initial=0):
                largest[name] = size
    return largest


def law_equal_components_have_equal_parameters(component: Component, again: Component | None = None) -> None:
    """A component made of other objects, yet equal, has the same parameters."""
    again = unshare(component) if again is None else again
    require(again == component, f"{component} is not equal to a copy of itself")
    left, right = (
        jax.eval_shape(lambda part=part: part.init(jax.random.key(0), *arguments(part))) for part in (component, again)
    )
    require(
        left == right,
        "two parts are one object and so share parameters, while an equal component has parameters for each",
    )


def law_calling_again_changes_nothing(component: Component) -> None:
    """The same call gives the same output: nothing is kept outside of the variables."""
    first, second = (component.apply({"params": parameters(component)}, *arguments(component)) for _ in range(2))
    for left, right in zip(jax.tree.leaves(second), jax.tree.leaves(first), strict=True):
        try:
            np.testing.assert_array_equal(left, right)
        except AssertionError:
            raise BrokenLawError("the second call with the same arguments gives another output") from None


def law_gradients_at_zero_are_finite(component: Component) -> None:
    """Outputs and gradients are finite at inputs of zeros, as padding and a stream's start can be."""
    floats, others = arrays(component)
    zeros = jax.tree.map(jnp.zeros_like, floats)
    (_, outputs), (params, inputs) = program(component)(parameters(component), zeros, others)
    require_finite(select_floats(outputs), "an output")
    require_finite(params, "the gradient of")
    require_finite(inputs, "the gradient of input")
