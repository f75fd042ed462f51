"""SOAP: Adam in the eigenbases of Shampoo's preconditioner of each matrix."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from models.contracts import Tree
from models.paths import count_stacked, map_paths, select
from models.roles import Role, default_decay, default_roles
from train.contracts import Params, Roles, Schedule
from train.optimizers.schedules import Linear, require_values
from train.optimizers.transforms import (
    clip_norm,
    compute_layer_scales,
    descend,
    mask_decayed,
    refuse_mup,
    require_clip,
    require_layer_decay,
    route,
)

MATRIX, OTHER = "soap", "adam"


@dataclasses.dataclass(frozen=True)
class SOAP:
    """theta <- theta - rate * (P (m' / (sqrt(v) + epsilon)) Q^T + decay * theta) for matrices.  arXiv:2409.11321.

    m' = P^T m Q is the momentum of the gradients g, v the mean of (P^T g Q)^2, both corrected for their start as
    Adam's.  P and Q are eigenvectors of L, the mean of g g^T, and of R, that of g^T g, with weights by `b2`.  The first
    step computes them and moves nothing but by decay; directions in which it has no gradient are turned as rounding has
    it.  After every `every` later steps P <- qr(L P), its columns in the order of the diagonal of P^T L P, largest
    first, which v follows; so Q.  A side longer than `largest` is not rotated.  Defaults are those of nikhilvyas/SOAP,
    which adds epsilon before it corrects v.

    Matrices are the decayed parameters of two axes or more, the last two being the sides, and experts and repeats
    matrices of their own; kernels that are multiplied element by element (roles with inputs=()) are none, nor is what
    matches `adam`.  All other parameters are Adam's.  L, R, P and Q are kept beside m and v: 4 d^2 more numbers for a
    matrix (d, d).  `decay`, `no_decay`, `layer_decay`, `clip` and `freeze` are as in `AdamW`.  A model in muP is
    refused.
    """

    rate: Schedule = Linear(3e-3)
    b1: float = 0.95
    b2: float = 0.95
    epsilon: float = 1e-8
    every: int = 10
    largest: int = 10_000
    adam: tuple[str, ...] = ()
    decay: float = 0.01
    no_decay: tuple[str, ...] | None = None
    layer_decay: float | None = None
    clip: float | None = 1.0
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_values(self, 0, 1, "b1", "b2")
        require_values(self, 0, math.inf, "epsilon", "decay")
        require_values(self, 1, math.inf, "every", "largest")
        require_clip(self.clip)
        require_layer_decay("SOAP", self.layer_decay)

    def build(self, steps: int, params: Params, roles: Roles | None = None) -> optax.GradientTransformation:
        """The optax transformation.  Raises ValueError for a model in muP."""
        refuse_mup(roles, "SOAP")
        apart = select(self.adam)

        def label(path: str, leaf: jax.Array, role: Role) -> str:
            axes = len(leaf.shape) - count_stacked(path)
            matrix = role.decay and role.inputs != () and default_decay(path, axes)
            return MATRIX if matrix and apart(path) is None else OTHER

        labels = map_paths(label, params, default_roles(params) if roles is None else roles)
        soap = scale_by_soap(self.b1, self.b2, self.epsilon, self.every, self.largest)
        adam = optax.scale_by_adam(self.b1, self.b2, self.epsilon)
        direction = optax.partition({MATRIX: soap, OTHER: adam}, labels)
        scales = None if self.layer_decay is None else compute_layer_scales(params, self.layer_decay)
        mask = mask_decayed(params, roles, self.no_decay)
        transform = descend(direction, self.rate.build(steps), self.decay, mask, scales)
        return route(clip_norm(self.clip, transform), params, roles, self.freeze)


class SOAPState(NamedTuple):
    """Steps so far; momentum m and mean square v; L, R, P and Q, each a tree with None for sides not rotated."""

    steps: jax.Array
    momentum: Params
    square: Params
    left: Params
    right: Params
    left_basis: Params
    right_basis: Params


def scale_by_soap(b1: float, b2: float, epsilon: float, every: int, largest: int) -> optax.GradientTransformation:
    """The direction P (m' / (sqrt(v) + epsilon)) Q^T of `SOAP` for each matrix (..., rows, columns)."""

    def init(params: Params) -> SOAPState:
        def square(leaf: jax.Array, axis: int) -> jax.Array | None:
            side = leaf.shape[axis]
            return None if side > largest else jnp.zeros((*leaf.shape[:-2], side, side), jnp.float32)

        moments = (jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params) for _ in range(2))
        sides = (jax.tree.map(lambda leaf, axis=axis: square(leaf, axis), params) for axis in (-2, -1, -2, -1))
        return SOAPState(jnp.zeros((), jnp.int32), *moments, *sides)

    def update(updates: Params, state: Tree, params: Params | None = None) -> tuple[Params, SOAPState]:
        first, count = state.steps == 0, state.steps
        # the gradients of the first step are used for the bases alone
        starts = [jnp.where(first, 1.0, 1 - beta**count) for beta in (b1, b2)]
        refresh = jnp.where(first, 0, jnp.where(count % every == 0, 1, 2))

        def step(gradient: jax.Array, *kept: jax.Array | None) -> Step:
            g, (m, v, left, right, *bases) = gradient.astype(jnp.float32), kept
            assert m is not None
            assert v is not None
            m = jnp.where(first, 0.0, b1 * m + (1 - b1) * g)
            v = jnp.where(first, 0.0, b2 * v + (1 - b2) * jnp.square(rotate(g, *bases)))
            turned = rotate(m / starts[0], *bases) / (jnp.sqrt(v / starts[1]) + epsilon)
            direction = jnp.where(first, 0.0, rotate(turned, *map(transpose, bases))).astype(gradient.dtype)
            left = None if left is None else b2 * left + (1 - b2) * multiply(g, g.mT)
            right = None if right is None else b2 * right + (1 - b2) * multiply(g.mT, g)
            v, *bases = jax.lax.switch(refresh, (start_bases, turn_bases, keep_bases), v, (left, right), *bases)
            return Step(direction, m, v, left, right, *bases)

        done = jax.tree.map(step, updates, *state[1:])
        parts = [
            jax.tree.map(
                lambda leaf_step, index=index: leaf_step[index], done, is_leaf=lambda leaf: isinstance(leaf, Step)
            )
            for index in range(len(Step._fields))
        ]
        return parts[0], SOAPState(count + 1, *parts[1:])

    return optax.GradientTransformation(init, update)


class Step(NamedTuple):
    """The direction of a matrix, and its part of the state."""

    direction: jax.Array
    momentum: jax.Array
    square: jax.Array
    left: jax.Array | None
    right: jax.Array | None
    left_basis: jax.Array | None
    right_basis: jax.Array | None


Sides = tuple[jax.Array | None, jax.Array | None]


def keep_bases(square: jax.Array, factors: Sides, *bases: jax.Array | None) -> tuple[jax.Array | None, ...]:
    """v, P and Q as they are."""
    return square, *bases


def start_bases(square: jax.Array, factors: Sides, *bases: jax.Array | None) -> tuple[jax.Array | None, ...]:
    """v, and eigenvectors of both factors."""
    return square, *(None if factor is None else jnp.linalg.eigh(factor)[1] for factor in factors)


def turn_bases(square: jax.Array, factors: Sides, *bases: jax.Array | None) -> tuple[jax.Array | None, ...]:
    """v in the new order, and both bases after one step of orthogonal iteration."""
    turned: list[jax.Array | None] = []
    for axis, (factor, basis) in zip((-2, -1), zip(factors, bases, strict=True), strict=True):
        if factor is None or basis is None:
            turned.append(None)
            continue
        product = multiply(factor, basis)
        order = jnp.argsort(-(basis * product).sum(-2), axis=-1)
        square = jnp.take_along_axis(square, jnp.expand_dims(order, -3 - axis), axis=axis)
        turned.append(jnp.linalg.qr(jnp.take_along_axis(product, order[..., None, :], axis=-1))[0])
    return square, *turned


def transpose(basis: jax.Array | None) -> jax.Array | None:
    """The inverse of a rotation."""
    return None if basis is None else basis.mT


def rotate(matrix: jax.Array, left: jax.Array | None, right: jax.Array | None) -> jax.Array:
    """left^T matrix right; None leaves a side as it is."""
    matrix = matrix if left is None else multiply(left.mT, matrix)
    return matrix if right is None else multiply(matrix, right)


def multiply(a: jax.Array, b: jax.Array) -> jax.Array:
    """The product, in full float32: a TPU would round the factors."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
