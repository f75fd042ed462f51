"""Properties that a class declares, by which laws know what it claims and what it does not.

Each is a class variable, a field or a property of a component, or of a part of it.  One that is not declared is
measured if it can be.

    causal        True: no output depends on a later token, a law.  False: it may.  Not declared: a layer that looks
                  ahead everywhere is taken to mean it, one that looks ahead at some tokens only is broken.
    window        an attention reads tokens less than this far away, and all of them, a law.
    cross         True: it reads the memory, all of it, a law, and says nothing about the stream by `causal`.
    decodes       True: it decodes, so that a layer that keeps no state is broken; False: it does not, so that
                  decoding is not tested.
    keeps_scale   True: a norm whose output follows the scale of its input, as curves without statistics do.
                  Otherwise norm(8 x) = norm(x).
    starts_at     mean square of a norm's output at the start; None if it has none.  Otherwise 1.
    roles         what its parameters are to the optimizer and to muP, by name: see models.roles.
    no_gradient   names of parameters whose gradient is zero by construction, below the module that declares
                  them: ("query_0", "key/bias").  All others must have one.
"""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
from flax.linen.module import InterceptorContext

from models.laws.inputs import Component, arguments, modules_within, parameters
from models.paths import path_name


def read_declared(component: object, name: str) -> list[object]:
    """The values that a component and the modules within declare under a name."""
    values = (getattr(module, name, None) for module in modules_within(component))
    return [value for value in values if value is not None]


def claims(layer: object, name: str) -> list[object]:
    """Declared values under a name; cross-attention, which reads the memory, says nothing about the stream."""
    return [
        getattr(module, name)
        for module in modules_within(layer)
        if hasattr(module, name) and not getattr(module, "cross", False)
    ]


def says_causal(layer: object) -> bool:
    """Tells if some part declares `causal`, and all that do declare True."""
    return bool(claims(layer, "causal")) and all(claims(layer, "causal"))


def without_gradient(component: Component) -> set[str]:
    """The paths of parameters that modules declare to have no gradient, found by running the component abstractly."""
    if not any(hasattr(module, "no_gradient") for module in modules_within(component)):
        return set()
    names: set[str] = set()

    def record(
        run: Callable[..., object],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        context: InterceptorContext,
    ) -> object:
        prefix = "/".join(context.module.path)
        names.update("/".join(filter(None, (prefix, name))) for name in getattr(context.module, "no_gradient", ()))
        return run(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(lambda: component.apply({"params": parameters(component)}, *arguments(component)))
    known = {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(parameters(component))}
    return names & known
