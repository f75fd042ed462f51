"""Roles of parameters, for whom changes or places them: weight decay, steps of their own, products that muP scales.

A component says what differs from the defaults, by the parameter's path within it:

    class Mamba1(nn.Module):
        roles: ClassVar[Roles] = {"log_rates": UNDECAYED}

What the component around says of a parameter comes before what the one within says.
"""

import dataclasses
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
from flax.linen.module import InterceptorContext

from models.contracts import Batch, Model, Tree
from models.paths import count_stacked, map_paths

SHIFTS = ("bias", "scale")  # last words of names whose parameters shift or scale, however many axes they have


@dataclasses.dataclass(frozen=True)
class Growth:
    """Growth of a parameter over the base model's: m_in, m_out, m_l of its stack, and if its output size is fixed."""

    fan_in: float = 1.0
    fan_out: float = 1.0
    depth: float = 1.0
    readout: bool = False


@dataclasses.dataclass(frozen=True)
class Role:
    """The role of a parameter for an optimizer and muP.

    decay: True if weight decay shrinks it.  None: if it has two axes or more, axes of repeats not counted, and its name
        does not end in `bias` or `scale`.
    inputs: the axes, -1 the last, that products with it sum over, for muP; () for a parameter that is multiplied
        element by element, or whose products are scaled with the width (`ctx.score_scale`, `ctx.logit_scale`).  None:
        read off the traced program.
    step: the size of each update against the sign of its gradient, which then is no gradient of the loss: no clipping,
        decay, schedule or moments.  None: the optimizer updates it.
    growth: its size over the base model's under muP, otherwise None.  Filled in by `models.parametrization`.
    """

    decay: bool | None = None
    inputs: tuple[int, ...] | None = None
    step: float | None = None
    growth: Growth | None = None


Roles = Mapping[str, Role]
UNDECAYED = Role(decay=False)
SCALED = Role(inputs=())


def default_decay(path: str, axes: int) -> bool:
    """The default of weight decay for a parameter with so many axes, those of repeats not counted."""
    return axes >= 2 and path.rsplit("/", 1)[-1].rsplit("_", 1)[-1] not in SHIFTS


def default_roles(params: Tree) -> Tree:
    """The Role of each parameter by its path and shape alone: what components declare is not known."""
    return map_paths(lambda path, leaf: Role(default_decay(path, len(leaf.shape) - count_stacked(path))), params)


def roles_of(model: Model, batch: Batch) -> Tree:
    """The Role of each parameter of a model, declared or by default, as a tree like the parameters'.

    Traced on a batch (arrays or shapes), nothing is computed.  Raises ValueError if a class declares something else
    than roles.
    """
    declared: dict[str, Role] = {}
    axes: dict[str, int] = {}

    def record(
        run: Callable[..., object],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        context: InterceptorContext,
    ) -> object:
        result = run(*args, **kwargs)
        module: nn.Module = context.module
        if module.scope is not None:
            prefix = "".join(f"{name}/" for name in module.path)
            for name, value in module.variables.get("params", {}).items():  # within a scan, so without its axis
                if hasattr(value, "shape"):
                    axes[prefix + name] = len(value.shape)
            # outer modules override inner ones
            declared.update({prefix + path: role for path, role in declarations(module).items()})
        return result

    with nn.intercept_methods(record):
        params = jax.eval_shape(lambda batch: model.init(jax.random.key(0), batch), dict(batch))["params"]

    def role(path: str, leaf: jax.ShapeDtypeStruct) -> Role:
        known = declared.get(path, Role())
        count = axes.get(path, len(leaf.shape) - count_stacked(path))
        return known if known.decay is not None else dataclasses.replace(known, decay=default_decay(path, count))

    return map_paths(role, params)


def declarations(component: object) -> Roles:
    """The roles that a component's class declares.  Raises ValueError if its `roles` are something else."""
    declared = getattr(component, "roles", {})
    if not isinstance(declared, Mapping) or not all(isinstance(role, Role) for role in declared.values()):
        name = type(component).__name__
        raise ValueError(
            f"{name}.roles is {declared!r}; it is read as the Role of each parameter by name, so rename the attribute."
        )
    return declared
