"""Laws of mixtures of experts: against a loop over experts in float64, their cost, their balance, and whom they see."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import GLU, MLP, Block, Context, Decoding, Stack
from models.experts.grouped import apply_experts, block_sizes, run_in_blocks
from models.experts.memory import PEER, ProductKeyMemory
from models.experts.noncausal import ExpertChoice, SoftMoE
from models.experts.routed import Experts
from models.experts.routing import AuxiliaryLossFree, HashRouter, SoftmaxRouter, choose_highest, measure_evenness
from models.feedforward import LowRank, Monarch
from tests.laws.components import WIDTH, normal, packed_context, parameters
from train.cost import traced

X = normal(1, 2, 8, WIDTH)
SEGMENTS = packed_context().segments
assert SEGMENTS is not None
REAL = np.asarray(SEGMENTS).reshape(-1) > 0


def wide(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def output(layer: Any, params: Any, x: Any = X, ctx: Any = None) -> Any:
    """A layer's output."""
    return layer.apply({"params": params}, x, ctx or Context())


def softmax(z: Any) -> np.ndarray:
    powers = np.exp(z - z.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def glu(x: Any, gate: Any, up: Any, down: Any) -> np.ndarray:
    z = x @ gate
    return (z / (1 + np.exp(-z)) * (x @ up)) @ down


def expert(p: Any, e: int, x: Any) -> np.ndarray:
    return glu(x, p["gate"][e], p["up"][e], p["down"][e])


def naive(layer: Any, p: Any, x: Any) -> np.ndarray:
    """Every token through its experts, one after the other."""
    y = np.zeros_like(x)
    for i, token in enumerate(x):
        if isinstance(layer.router, HashRouter):
            directions = np.random.default_rng(0).standard_normal((WIDTH, layer.experts))
            chosen = np.argsort(-(token @ directions))[: layer.active]
            weights = np.full(layer.active, 1 / layer.active)
        elif isinstance(layer.router, AuxiliaryLossFree):
            scores = 1 / (1 + np.exp(-(token @ p["router"]["gate"]["kernel"])))
            chosen = np.argsort(-(scores + p["router"]["bias"]))[: layer.active]
            weights = layer.router.scale * scores[chosen] / scores[chosen].sum()
        else:
            chances = softmax(token @ p["router"]["gate"]["kernel"])
            chosen = np.argsort(-chances)[: layer.active]
            weights = chances[chosen] / (chances[chosen].sum() if layer.router.normalise else 1)
        y[i] = sum(weight * expert(p, e, token) for weight, e in zip(weights, chosen, strict=True))
        if layer.shared:
            y[i] += glu(token, *(p["shared"][name]["kernel"] for name in ("gate", "up", "down")))
    return y


def law_experts_are_the_loop(layer: Any, reference: Any = None) -> None:
    params = parameters(layer)
    expected = naive(reference or layer, wide(params), np.asarray(X, np.float64).reshape(-1, WIDTH))
    for dispatch in ("blocks", "ragged"):
        y = jax.jit(dataclasses.replace(layer, dispatch=dispatch).apply)({"params": params}, X, Context())
        np.testing.assert_allclose(np.asarray(y).reshape(-1, WIDTH), expected, atol=1e-4)


ROUTED = [
    Experts(),
    Experts(4, 3, 0.5, shared=2, router=SoftmaxRouter(normalise=False)),
    Experts(6, 2, router=AuxiliaryLossFree(2.5)),
    Experts(5, 2, router=HashRouter()),
]


@pytest.mark.parametrize("layer", ROUTED)
def test_experts_in_blocks_and_ragged_are_the_loop_over_experts_in_float64(layer: Any) -> None:
    law_experts_are_the_loop(layer)


@pytest.mark.slow
@pytest.mark.represented_by("sizes1")
@pytest.mark.parametrize("sizes", [(1,), (3, 8), (2, 4, 5)])
def test_dispatch_and_its_gradient_are_those_of_every_token_with_its_own_kernels_whatever_the_load(
    sizes: tuple[int, ...],
) -> None:
    tokens, weights, kernels = (
        normal(1, 7, 4),
        normal(2, 7, 2),
        (normal(3, 5, 4, 3), normal(4, 5, 4, 3), normal(5, 5, 3, 4)),
    )
    for chosen in (np.zeros((7, 2), int), np.arange(14).reshape(7, 2) % 5, np.array([[4, 0]] * 6 + [[2, 4]])):

        def loss(tokens: Any, weights: Any, kernels: Any, sizes: tuple[int, ...] | None, chosen: Any = chosen) -> Any:
            return (apply_experts(tokens, weights, jnp.asarray(chosen), kernels, jnp.tanh, sizes) ** 2).sum()

        def plain(tokens: Any, weights: Any, kernels: Any, chosen: Any = chosen) -> Any:
            gate, up, down = (kernel[chosen] for kernel in kernels)
            inner = jnp.tanh(jnp.einsum("nd,nkdf->nkf", tokens, gate)) * jnp.einsum("nd,nkdf->nkf", tokens, up)
            return (jnp.einsum("nkf,nkfd,nk->nd", inner, down, weights) ** 2).sum()

        expected = jax.value_and_grad(plain, (0, 1, 2))(tokens, weights, kernels)
        for form in (sizes, None):
            found = jax.value_and_grad(loss, (0, 1, 2))(tokens, weights, kernels, form)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)


@pytest.mark.slow
def test_all_experts_with_an_equal_router_are_the_mean_of_dense_ones() -> None:
    layer = Experts(4, 4)
    params = parameters(layer) | {"router": {"gate": {"kernel": jnp.zeros((WIDTH, 4))}}}
    p = wide(params)
    mean = sum(expert(p, e, np.asarray(X, np.float64)) for e in range(4)) / 4
    np.testing.assert_allclose(output(layer, params), mean, atol=1e-4)


def law_cost_follows_the_active_experts(layer: Any, dense: Any) -> None:
    x = jax.ShapeDtypeStruct((4, 512, 64), jnp.float32)
    counts = []
    for one in (layer, dense):
        params = jax.eval_shape(one.init, jax.random.key(0), x, Context())["params"]
        counts.append(
            traced.count_flops(lambda params, x, one=one: one.apply({"params": params}, x, Context()), params, x)
        )
    assert counts[0] < 1.5 * counts[1]


def test_eight_of_sixty_four_experts_cost_as_much_as_a_dense_layer_of_their_size() -> None:
    law_cost_follows_the_active_experts(Experts(64, 8, 0.5), GLU(4.0))


@pytest.mark.parametrize("mean", [256, 1024])
def test_blocks_pad_loads_around_the_mean_by_a_fifth_at_most_and_by_few_on_average(mean: int) -> None:
    sizes = block_sizes(mean)
    padded = jax.jit(jax.vmap(lambda count: run_in_blocks(lambda rows, first, size: rows + size, sizes, count, 0)))
    counts = np.arange(3 * mean // 4, 3 * mean)
    rows = np.asarray(padded(counts))
    assert (rows >= counts).all()
    assert (rows / counts).max() < 1.21
    assert (rows / counts).mean() < 1.07
    assert int(padded(np.array([0]))[0]) == 0


def sown(layer: Any, params: Any, x: Any, ctx: Context) -> Any:
    return layer.apply({"params": params}, x, ctx, mutable=["losses", "metrics"])[1]


def law_balance_is_least_where_loads_are_equal(layer: Any) -> None:
    """Tokens and gate are unit vectors, so that each token has one expert: all alike, and each its own."""
    params = parameters(layer) | {"router": {"gate": {"kernel": 5 * jnp.eye(WIDTH)[:, :4]}}}
    for axes, least in (([0, 1, 2, 3], True), ([0, 0, 1, 2], False), ([0, 0, 0, 0], False)):
        found = sown(layer, params, jnp.eye(WIDTH)[jnp.array(axes)][None], Context())
        loss, (load,) = found["losses"]["router"]["balance"][0].values.sum(), found["metrics"]["load"]
        entropy, largest = measure_evenness(load.counts)
        assert (abs(loss - 0.5) < 1e-5) if least else loss > 0.55
        assert (abs(entropy - 1) < 1e-5) == least
        assert float(largest) == np.bincount(axes).max()


@pytest.mark.slow
def test_the_balance_loss_is_least_where_loads_are_equal() -> None:
    law_balance_is_least_where_loads_are_equal(Experts(4, 1, router=SoftmaxRouter(balance=0.5)))


@pytest.mark.represented_by("router0", "router2")
@pytest.mark.parametrize("router", [SoftmaxRouter(0.3, 0.2), AuxiliaryLossFree(), HashRouter()])
def test_padding_counts_in_no_loss_no_metric_and_no_excess(router: Any) -> None:
    layer = Experts(4, 2, router=router)
    params, ctx = parameters(layer), Context(segments=SEGMENTS)

    def excess(params: Any, x: Any, ctx: Context) -> Any:
        return output(layer, params, x, ctx).sum()

    measure = jax.jit(functools.partial(sown, layer))
    packed, alone = measure(params, X, ctx), X.reshape(1, -1, WIDTH)[:, REAL]
    np.testing.assert_allclose(
        packed["metrics"]["load"][0].counts, measure(params, alone, Context())["metrics"]["load"][0].counts
    )
    # an example's loss does not feel the others of its row
    for number in {int(number) for number in np.asarray(SEGMENTS).ravel()}:
        own = number == SEGMENTS
        single = measure(params, X, Context(segments=jnp.where(own, 5, 0))).get("losses", {}).get("router", {})
        for name, (loss,) in packed.get("losses", {}).get("router", {}).items():
            np.testing.assert_allclose(loss.values[own], single[name][0].values[own] if number else 0.0, rtol=1e-5)
    if isinstance(router, AuxiliaryLossFree):
        biases = [
            jax.jit(jax.grad(excess))(params, *given)["router"]["bias"] for given in ((X, ctx), (alone, Context()))
        ]
        np.testing.assert_allclose(biases[0], biases[1])


@pytest.mark.slow
def test_the_bias_is_given_the_excess_of_the_load_and_descent_lowers_it() -> None:
    layer = Experts(4, 1, router=AuxiliaryLossFree())
    params = parameters(layer) | {
        "router": {"bias": jnp.array([9.0, 0.0, 0.0, 0.0]), "gate": {"kernel": normal(3, WIDTH, 4)}}
    }
    loss = jax.jit(jax.grad(lambda params: output(layer, params).sum()))
    np.testing.assert_array_equal(loss(params)["router"]["bias"], [12, -4, -4, -4])
    for _ in range(200):
        params["router"]["bias"] -= 0.01 * loss(params)["router"]["bias"]
    assert np.abs(loss(params)["router"]["bias"]).max() <= 3


def test_sown_losses_are_gathered_over_a_scan_and_are_no_part_of_a_new_model() -> None:
    stack = Stack(Block(MLP(1.0), Experts(4, 2)), 3, scan=True)
    variables = jax.eval_shape(stack.init, jax.random.key(0), X, Context())
    assert set(variables) == {"params"}
    losses = jax.tree.leaves(
        jax.eval_shape(functools.partial(sown, stack), variables["params"], X, Context())["losses"]
    )
    assert [loss.shape for loss in losses] == [(3, *X.shape[:2])] * 2


def chosen_by_experts(p: Any, x: Any, experts: int, capacity: float) -> np.ndarray:
    """Expert choice for one example."""
    scores, y = softmax(x @ p["router"]["kernel"]), np.zeros_like(x)
    for e in range(experts):
        for i in np.argsort(-scores[:, e])[: int(len(x) * capacity / experts)]:
            y[i] += scores[i, e] * expert(p, e, x[i])
    return y


def soft(p: Any, x: Any) -> np.ndarray:
    """Soft mixture of experts for one example, one slot after the other."""
    slots = p["keys"].shape[1]
    z = p["scale"] * (x / np.linalg.norm(x, axis=-1, keepdims=True)) @ (p["keys"] / np.linalg.norm(p["keys"], axis=0))
    given = [expert(p, slot // (slots // len(p["gate"])), softmax(z[:, slot]) @ x) for slot in range(slots)]
    return softmax(z) @ np.array(given)


@pytest.mark.represented_by("layer1-soft")
@pytest.mark.parametrize(
    ("layer", "formula"),
    [(ExpertChoice(4, 2.0, shared=0), lambda p, x: chosen_by_experts(p, x, 4, 2.0)), (SoftMoE(4, 3), soft)],
)
def test_layers_that_see_the_whole_example_are_their_definition_in_each_example(layer: Any, formula: Any) -> None:
    params = parameters(layer)
    y = np.asarray(layer.apply({"params": params}, X, Context(segments=SEGMENTS)))
    for row, start, end in ((0, 0, 3), (0, 3, 7), (1, 0, 5), (1, 5, 8)):
        expected = formula(wide(params), np.asarray(X, np.float64)[row, start:end])
        np.testing.assert_allclose(y[row, start:end], expected, atol=1e-4)
    with pytest.raises(ValueError, match="cannot decode"):
        layer.apply({"params": params}, X, Context(decoding=Decoding(0, 8)))


@pytest.mark.slow
def test_an_example_beyond_those_that_soft_experts_serve_is_not_a_number() -> None:
    layer, segments = SoftMoE(4, 1, examples=2), jnp.array([[1, 1, 2, 2, 3, 3, 3, 0]])
    params = parameters(layer)
    y = np.asarray(layer.apply({"params": params}, X[:1], Context(segments=segments)))
    np.testing.assert_array_equal(np.isnan(y[0]).all(-1), segments[0] == 3)
    served = np.asarray(
        layer.apply({"params": params}, X[:1], Context(segments=segments, starts=jnp.array([[0, 2, 4]])))
    )
    assert np.isfinite(served).all()
    np.testing.assert_allclose(y[0, :4], served[0, :4], atol=1e-6)


def test_highest_takes_the_share_of_each_example_in_order() -> None:
    scores, segments = jnp.array([[[5.0, 1, 2, 9, 9, 3, 7, 8]]]), jnp.array([[0, 1, 1, 1, 1, 2, 2, 2]])
    index, valid = choose_highest(scores, segments, 0.5)
    assert np.asarray(index[0, 0])[np.asarray(valid[0, 0])].tolist() == [3, 4, 7]
    assert choose_highest(scores, None, 0.5)[0][0, 0].tolist() == [3, 4, 6, 7]


def test_product_keys_find_the_best_of_all_pairs() -> None:
    layer = ProductKeyMemory(keys=6, heads=2, active=3, key_width=8)
    params = parameters(layer)
    p, x = wide(params), np.asarray(X, np.float64).reshape(-1, WIDTH)
    y = np.zeros_like(x)
    query = (x @ p["query"]["kernel"] + p["query"]["bias"]).reshape(-1, 2, 2, 4)
    query = (query - query.mean(-1, keepdims=True)) / np.sqrt(query.var(-1, keepdims=True) + 1e-5)
    query = query * p["norm"]["scale"] + p["norm"]["bias"]
    for i in range(len(x)):
        for head in range(2):
            left, right = (p["halves"][head, half] @ query[i, head, half] for half in range(2))
            scores = (left[:, None] + right[None]).reshape(-1)
            best = np.argsort(-scores)[:3]
            y[i] += softmax(scores[best]) @ p["values"][best]
    np.testing.assert_allclose(
        np.asarray(layer.apply({"params": params}, X, Context())).reshape(-1, WIDTH), y, atol=1e-4
    )


def test_experts_of_one_neuron_are_the_best_of_all_pairs() -> None:
    layer = PEER(keys=6, heads=2, active=3, key_width=8)
    params = parameters(layer)
    p, x = wide(params), np.asarray(X, np.float64).reshape(-1, WIDTH)
    y = np.zeros_like(x)
    for i, token in enumerate(x):
        for head in range(2):
            query = (token @ p["query"]["kernel"]).reshape(2, 2, 4)[head]
            query = (query - query.mean(-1, keepdims=True)) / np.sqrt(query.var(-1, keepdims=True) + 1e-5)
            query = query * p["norm"]["scale"] + p["norm"]["bias"]
            scores = [
                p["halves"][head, 0, e // 6] @ query[0] + p["halves"][head, 1, e % 6] @ query[1] for e in range(36)
            ]
            best = np.argsort(-np.array(scores))[:3]
            for weight, e in zip(softmax(np.array(scores)[best]), best, strict=True):
                z = p["up"][e] @ token
                y[i] += weight * z * (1 + math.erf(z / math.sqrt(2))) / 2 * p["down"][e]
    np.testing.assert_allclose(np.asarray(output(layer, params)).reshape(-1, WIDTH), y, atol=1e-4)
    with pytest.raises(ValueError, match="PEER has key_width 3, which must be even, and 9 active of 6 keys"):
        PEER(keys=6, active=9, key_width=3)


def test_low_rank_and_monarch_are_an_mlp_of_their_matrices() -> None:
    low, monarch = LowRank(2.0, 0.25), Monarch(2.0, blocks=4)
    p, q = wide(parameters(low)), wide(parameters(monarch))
    up, down = (p[f"{name}_in"]["kernel"] @ p[name]["kernel"] for name in ("up", "down"))
    assert np.linalg.matrix_rank(up) == np.linalg.matrix_rank(down) == 4
    params = {"up": {"kernel": jnp.asarray(up)}, "down": {"kernel": jnp.asarray(down)}}
    np.testing.assert_allclose(output(low, parameters(low)), output(MLP(2.0), params), atol=1e-4)

    def matrix(name: str, given: int, width: int) -> np.ndarray:
        whole, inner = np.zeros((given, width)), 4
        for i in range(given):
            for o in range(width):
                # unit (block, place) of the first map stands at place * 4 + block for the second
                for place in range(inner):
                    block, at = i // (given // 4), place * 4 + i // (given // 4)
                    if at // inner == o % 4:
                        whole[i, o] += (
                            q[f"{name}_in"][block, i % (given // 4), place] * q[name][o % 4, at % inner, o // 4]
                        )
        return whole

    params = {
        name: {"kernel": jnp.asarray(matrix(name, *sizes))} for name, sizes in (("up", (16, 32)), ("down", (32, 16)))
    }
    np.testing.assert_allclose(output(monarch, parameters(monarch)), output(MLP(2.0), params), atol=1e-4)
    with pytest.raises(ValueError, match="multiples"):
        Monarch(blocks=5).init(jax.random.key(0), X, Context())


@pytest.mark.parametrize(
    ("given", "words"),
    [({"active": 9}, "9 active of 8"), ({"experts": 0}, "above 0"), ({"dispatch": "loop"}, "'auto'")],
)
def test_experts_refuse_settings_that_contradict_each_other(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Experts(**given)


BROKEN = [
    (law_experts_are_the_loop, (Experts(8, 3), Experts(8, 2))),
    (law_cost_follows_the_active_experts, (Experts(64, 16, 0.5), GLU(4.0))),
    (law_balance_is_least_where_loads_are_equal, (Experts(4, 1, router=SoftmaxRouter(balance=0.0)),)),
]


@pytest.mark.represented_by("law_experts_are_the_loop-given0", "law_cost_follows_the_active_experts-given1")
@pytest.mark.parametrize(("law", "given"), BROKEN)
def test_broken_components_fail(law: Any, given: Any) -> None:
    with pytest.raises(AssertionError):
        law(*given)
