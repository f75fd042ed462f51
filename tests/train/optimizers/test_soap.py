"""SOAP is its paper's algorithm, written again in numpy."""

from typing import Any

import jax
import numpy as np
import pytest

from models.roles import Growth, Role
from tests.train.optimizers.updates import draw, flatten, gradient, nest, trained
from train.optimizers import SOAP, Constant

RATE, STEPS = 0.05, 5


def parameters() -> Any:
    """A matrix, experts, a table with a long side and a vector; all factors have full rank from the first step on."""
    flat = {
        "stack/layer_0/mixer/up/kernel": draw(0, 6, 6),
        "stack/layer_0/mixer/experts": draw(1, 3, 5, 5),
        "stack/layer_0/mixer_residual/norm/scale": draw(2, 6),
        "embed/token": draw(3, 11, 6),
    }
    return nest(flat)


def soap(theta: np.ndarray, own: Any, settings: SOAP) -> np.ndarray:
    """A matrix after some steps, by algorithm 3 of the paper; `own` gives the gradient at the matrix in a step."""
    theta, (b1, b2) = theta.astype(np.float64), (settings.b1, settings.b2)
    sides = [size <= settings.largest for size in theta.shape]
    m, v, bases = np.zeros(theta.shape), np.zeros(theta.shape), [np.eye(size) for size in theta.shape]
    factors = [np.zeros((size, size)) for size in theta.shape]
    for step in range(STEPS):
        g = own(theta, step)
        direction = np.zeros(theta.shape)
        if step:
            p, q = bases
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * (p.T @ g @ q) ** 2
            scaled = p.T @ m @ q / (1 - b1**step) / (np.sqrt(v / (1 - b2**step)) + settings.epsilon)
            direction = p @ scaled @ q.T
        theta = theta - RATE * (direction + settings.decay * theta)
        for axis, outer in enumerate((g @ g.T, g.T @ g)):
            factors[axis] = b2 * factors[axis] + (1 - b2) * outer
            if not sides[axis]:
                continue
            if not step:
                bases[axis] = np.linalg.eigh(factors[axis])[1][:, ::-1]
            elif step % settings.every == 0:
                order = np.argsort(-np.diag(bases[axis].T @ factors[axis] @ bases[axis]))
                v = np.take(v, order, axis)
                bases[axis] = np.linalg.qr(factors[axis] @ bases[axis][:, order])[0]
    return theta


def law_is_the_papers(ours: SOAP, reference: SOAP) -> None:
    start = parameters()
    found = flatten(trained(ours.build(STEPS, start), start, STEPS)[0])

    def own(theta: np.ndarray, step: int) -> np.ndarray:
        return np.asarray(gradient(theta.astype(np.float32), step), np.float64)

    for path, leaf in flatten(start).items():
        if leaf.ndim > 1:
            alone = [soap(matrix, own, reference) for matrix in leaf.reshape(-1, *leaf.shape[-2:])]
            expected = np.stack(alone).reshape(leaf.shape)
            np.testing.assert_allclose(found[path], expected, rtol=2e-4, atol=2e-4, err_msg=path)
            assert np.abs(found[path] - leaf).max() > 0.1


def test_an_update_is_the_papers() -> None:
    law_is_the_papers(ours := SOAP(Constant(RATE), every=2, largest=6, decay=0.2, no_decay=("scale",), clip=None), ours)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"every": 3}, {"b1": 0.9}, {"b2": 0.9}, {"decay": 0.1}, {"largest": 5}])
def test_other_settings_fail(changes: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"every": 2, "largest": 6, "decay": 0.2, "clip": None}
    with pytest.raises(AssertionError):
        law_is_the_papers(SOAP(Constant(RATE), **settings), SOAP(Constant(RATE), **settings | changes))


def test_what_soap_leaves_to_adam() -> None:
    """Its state has factors of the matrices alone, for the sides that are not too long."""
    params = parameters()
    params["stack"]["layer_0"]["mixer"] |= {"convolution": {"kernel": draw(1, 4, 6)}, "rates": draw(2, 3, 6)}
    known = jax.tree.map(lambda leaf: Role(decay=leaf.ndim >= 2), params)
    known["stack"]["layer_0"]["mixer"]["convolution"]["kernel"] = Role(decay=True, inputs=())
    known["stack"]["layer_0"]["mixer"]["rates"] = Role(decay=False)
    state = flatten(SOAP(largest=6, adam=("up/",)).build(STEPS, params, known).init(params))
    experts, table = "stack/layer_0/mixer/experts", "embed/token"
    for side, names in {"left": {experts}, "left_basis": {experts}, "right": {experts, table}}.items():
        assert {path.split(f"/{side}/")[1] for path in state if f"/{side}/" in path} == names


def test_a_model_in_mup_is_refused() -> None:
    params = parameters()
    with pytest.raises(ValueError, match="muP's rates are known for AdamW"):
        SOAP().build(STEPS, params, jax.tree.map(lambda _: Role(growth=Growth()), params))
