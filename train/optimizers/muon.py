"""Muon: updates of matrices whose singular values are all about one."""

import dataclasses
import math

import jax
import optax
import optax.contrib

from models.paths import Layer, count_stacked, map_paths, select
from models.roles import Growth, Role, default_decay, default_roles
from train.contracts import Params, Roles, Schedule
from train.optimizers.schedules import Linear, require_values
from train.optimizers.transforms import (
    clip_norm,
    compute_layer_scales,
    descend,
    find_shrinkage,
    mask_decayed,
    require_clip,
    require_layer_decay,
    route,
    scale_by,
)

MATRIX, OTHER = "muon", "adam"


@dataclasses.dataclass(frozen=True)
class Muon:
    """theta <- theta - rate * (scale * orthogonal(m) + decay * theta) for matrices, m the momentum of gradients.

    orthogonal(m) is m with its singular values near 1, by five Newton-Schulz iterations (Jordan 2024,
    kellerjordan.github.io/posts/muon).  scale is rms * sqrt(max(in, out)), which gives updates the size of AdamW's, so
    that AdamW's rate and decay serve (arXiv:2502.16982); or sqrt(max(1, out / in)) as first published if `rms` is None.
    `beta` is the decay of the momentum, which looks ahead as Nesterov's.

    Matrices are the decayed parameters of two axes or more in the blocks of a stack, the last two axes being in and
    out, and experts and repeats matrices of their own; kernels that are multiplied element by element (roles with
    inputs=()) are none, nor is what matches `adam`.  All other parameters are AdamW's, with `b1`, `b2` and `adam_rate`
    times the rate.  In muP the scale of a matrix follows sqrt(out / in) over the base model's (the spectral condition,
    arXiv:2310.17813), the rest is as in `AdamW`, as are `no_decay`, `layer_decay`, `clip` and `freeze`.  Raises
    ValueError if there is no such matrix.
    """

    rate: Schedule = Linear(1e-3)
    beta: float = 0.95
    nesterov: bool = True
    rms: float | None = 0.2
    b1: float = 0.9
    b2: float = 0.95
    epsilon: float = 1e-8
    adam_rate: float = 1.0
    adam: tuple[str, ...] = ()
    decay: float = 0.1
    no_decay: tuple[str, ...] | None = None
    layer_decay: float | None = None
    clip: float | None = 1.0
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_values(self, 0, 1, "beta", "b1", "b2")
        require_values(self, 0, math.inf, "epsilon", "adam_rate", "decay")
        if self.rms is not None and not 0 < self.rms < math.inf:
            raise ValueError(f"Muon.rms is {self.rms}; it must be a number above 0, or none.")
        require_clip(self.clip)
        require_layer_decay("Muon", self.layer_decay)

    def build(self, steps: int, params: Params, roles: Roles | None = None) -> optax.GradientTransformation:
        """The optax transformation.  Raises ValueError if no parameter is a matrix of a stack."""
        known = default_roles(params) if roles is None else roles
        apart = select(self.adam)

        def label(path: str, leaf: jax.Array, role: Role) -> str:
            axes = len(leaf.shape) - count_stacked(path)
            matrix = Layer.of(path) is not None and role.decay and role.inputs != () and default_decay(path, axes)
            return MATRIX if matrix and apart(path) is None else OTHER

        labels = map_paths(label, params, known)
        if MATRIX not in jax.tree.leaves(labels):
            raise ValueError("Muon moves matrices in blocks of a stack, and no parameter is one; use AdamW.")
        epsilon = self.epsilon / find_shrinkage(roles)
        muon = optax.contrib.scale_by_muon(
            beta=self.beta, eps=epsilon, nesterov=self.nesterov, weight_dimension_numbers=_take_last_axes
        )
        adam = optax.scale_by_adam(self.b1, self.b2, epsilon)
        direction = optax.chain(
            optax.partition({MATRIX: muon, OTHER: adam}, labels), scale_by(self.scale(params, labels, known))
        )
        scales = jax.tree.map(lambda label: 1.0 if label == MATRIX else self.adam_rate, labels)
        if self.layer_decay is not None:
            layers = compute_layer_scales(params, self.layer_decay)
            scales = jax.tree.map(lambda layer, scale: layer * scale, layers, scales)
        transform = descend(
            direction, self.rate.build(steps), self.decay, mask_decayed(params, roles, self.no_decay), scales
        )
        return route(clip_norm(self.clip, transform), params, roles, self.freeze)

    def scale(self, params: Params, labels: Params, roles: Roles) -> Params:
        """The factor of each parameter's direction."""

        def scale(leaf: jax.Array, label: str, role: Role) -> float:
            growth = role.growth or Growth()
            if label == OTHER:
                return 1 / growth.fan_in
            # of the base model's matrix, times the growth of the spectral norm that keeps activations their size
            rows, columns = leaf.shape[-2] / growth.fan_in, leaf.shape[-1] / growth.fan_out
            size = math.sqrt(max(1, columns / rows)) if self.rms is None else self.rms * math.sqrt(max(rows, columns))
            return size * math.sqrt(growth.fan_out / growth.fan_in)

        return jax.tree.map(scale, params, labels, roles)


def _take_last_axes(tree: Params) -> Params:
    return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(-2, -1), tree)
