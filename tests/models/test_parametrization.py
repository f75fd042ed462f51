"""muP: roles read off shapes, scales at their formulas, and activations that keep their size over widths and depths."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import (
    GLU,
    MLP,
    Attention,
    Block,
    ClassHead,
    EncoderDecoder,
    Experts,
    LatentAttention,
    LogitsHead,
    Mamba1,
    MeanPool,
    MinGRU,
    PreNorm,
    RMSNorm,
    RoPE,
    Sandwich,
    Stack,
    TokenEmbed,
    Transformer,
    part,
)
from models.context import Base, Context
from models.parametrization import initialised, roles, widen
from models.roles import Growth, roles_of
from train.cli import main
from train.contracts import Optimizer
from train.data.tasks.synthetic import Recall
from train.experiment import Experiment
from train.objectives import MaskedLM
from train.optimizers import SGD, AdamW, Constant, Lion, Muon, Optax
from train.study.coordinates import check, is_flat, plan_sizes

BATCH = {"tokens": jnp.asarray(np.random.default_rng(0).integers(0, 11, (2, 8)), jnp.int32)}
BLOCK = Block(Attention(4, causal=True, position=RoPE()), GLU(2.0), PreNorm(RMSNorm()))
MIXED = Block(MinGRU(), Experts(4, 2, 1.0, dispatch="ragged"), Sandwich(RMSNorm()))


def mup(stack: Stack, head: Any = None, width: int = 32, base: int = 16, depth: int = 1) -> Any:
    return Transformer(
        TokenEmbed(11, width), stack, head or LogitsHead(), parametrization="mup", base_width=base, base_depth=depth
    )


def at(tree: Any, path: str) -> Any:
    for name in path.split("/"):
        tree = tree[name]
    return tree


MATRIX, VECTOR = Growth(2, 2, 4), Growth(1, 2, 4)


@pytest.mark.represented_by(
    "stack0-embed/token-growth0",
    "stack3-stack/blocks/block_0/feedforward/up/kernel-growth3",
    "stack7-stack/layer_0/mixer/log_rates-growth7",
)
@pytest.mark.parametrize(
    ("stack", "path", "growth"),
    [
        (Stack(BLOCK, 4), "embed/token", Growth(1, 2)),
        (Stack(BLOCK, 4), "stack/layer_3/mixer/out/kernel", MATRIX),
        (Stack(BLOCK, 4), "stack/layer_3/mixer_residual/norm/scale", VECTOR),
        (Stack(BLOCK, 4, scan=True), "stack/blocks/block_0/feedforward/up/kernel", MATRIX),
        (Stack(BLOCK, 4, norm=RMSNorm()), "stack/norm/scale", Growth(1, 2)),
        (Stack(MIXED, 4), "stack/layer_0/feedforward/gate", MATRIX),
        (Stack(MIXED, 4), "stack/layer_0/feedforward/router/gate/kernel", Growth(2, 1, 4, readout=True)),
        (Stack(Block(Mamba1()), 4), "stack/layer_0/mixer/log_rates", VECTOR),
        (
            Stack(Block(LatentAttention(rank=4, rotary=2)), 4),
            "stack/layer_0/mixer/compress/kernel",
            Growth(2, 1, 4, readout=True),
        ),
        (Stack(Block(LatentAttention(rank=4, rotary=2)), 4), "stack/layer_0/mixer/up_key", VECTOR),
    ],
)
def test_growth_is_read_off_the_shapes(stack: Stack, path: str, growth: Growth) -> None:
    assert at(roles(mup(stack), BATCH), path).growth == growth


@pytest.mark.slow
def test_what_leads_to_a_fixed_size_is_told_from_matrices_and_both_stacks_have_their_depth() -> None:
    assert at(roles(mup(Stack(BLOCK, 2), ClassHead(3)), BATCH), "head/out/kernel").growth == Growth(2, 1, readout=True)
    decoder = Stack(Block(Attention(4, causal=True), MLP(), cross=Attention(4, cross=True)), 6)
    both: Any = EncoderDecoder(
        TokenEmbed(11, 32), Stack(BLOCK, 2), decoder, LogitsHead(), parametrization="mup", base_width=16, base_depth=2
    )
    found = roles(both, {**BATCH, "source": BATCH["tokens"]})
    assert at(found, "encoder/layer_0/mixer/out/kernel").growth == Growth(2, 2, 1)
    assert at(found, "decoder/layer_0/cross/out/kernel").growth == Growth(2, 2, 3)


def size(x: jax.Array) -> float:
    return float(jnp.sqrt(jnp.mean(jnp.square(x))))


@pytest.mark.slow
def test_initial_scales_follow_the_base_model() -> None:
    model = mup(Stack(BLOCK, 2), ClassHead(3, MeanPool()), width=128, base=32)
    params, plain = (initialised(one, jax.random.key(0), BATCH)["params"] for one in (model, widen(model, 32)))
    kernel = "stack/layer_0/mixer/query/kernel"
    np.testing.assert_allclose(size(at(params, kernel)), size(at(plain, kernel)) / 2, rtol=1e-5)
    np.testing.assert_allclose(size(at(params, "head/out/kernel")), size(at(plain, "head/out/kernel")) / 4, rtol=1e-5)
    own = model.init(jax.random.key(0), BATCH)["params"]
    np.testing.assert_array_equal(at(params, "embed/token"), at(own, "embed/token"))


def test_at_its_base_a_model_is_the_standard_one() -> None:
    block = Block(Attention(2, head_width=64, causal=True), GLU(2.0), PreNorm(RMSNorm()))
    model = mup(Stack(block, 2), width=16, depth=2)
    standard = dataclasses.replace(model, parametrization="standard")
    params = initialised(model, jax.random.key(1), BATCH)
    jax.tree.map(np.testing.assert_array_equal, params, initialised(standard, jax.random.key(1), BATCH))
    np.testing.assert_allclose(model.apply(params, BATCH), standard.apply(params, BATCH), rtol=1e-5, atol=1e-6)


def test_scales_of_scores_logits_branches_and_products_are_their_formulas() -> None:
    ctx = Context(depth=8, base=Base(width=32, depth=2))
    assert (ctx.branch_scale, ctx.logit_scale(128), ctx.score_scale(16), ctx.product_scale(16)) == (
        1 / 4,
        1 / 4,
        1 / 2,
        4.0,
    )
    plain = Context(depth=8)
    assert (plain.branch_scale, plain.logit_scale(128), plain.score_scale(16), plain.product_scale(16)) == (
        1.0,
        1.0,
        1 / 4,
        1.0,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["score_scale", "logit_scale", "branch_scale"])
def test_at_its_base_another_scale_would_be_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = {"branch_scale": property(lambda ctx: 1.0 if ctx.base is None else 0.5)}
    monkeypatch.setattr(Context, name, planted.get(name, lambda ctx, k: 1.0 if ctx.base is None else 0.5))
    with pytest.raises(AssertionError):
        test_at_its_base_a_model_is_the_standard_one()


def first_update(optimizer: Optimizer, model: Any) -> Any:
    params = jax.jit(model.init)(jax.random.key(0), BATCH)["params"]
    transform = optimizer.build(10, params, roles(model, BATCH))
    updates, _ = transform.update(jax.tree.map(jnp.ones_like, params), transform.init(params), params)
    return updates


MATRIX_PATH, VECTOR_PATH = "stack/layer_0/feedforward/down/kernel", "stack/layer_0/mixer_residual/norm/scale"


@pytest.mark.represented_by("sgd")
@pytest.mark.parametrize(
    ("optimizer", "matrix", "vector", "embedding"),
    [
        (AdamW(Constant(0.1), decay=0.0, clip=None), 0.025, 0.1, 0.1),
        (SGD(Constant(0.1)), 0.2, 0.8, 0.4),
        (Lion(Constant(0.1), decay=0.0, clip=None), 0.025, 0.1, 0.1),
    ],
    ids=["adamw", "sgd", "lion"],
)
def test_rates_follow_the_roles(optimizer: Optimizer, matrix: float, vector: float, embedding: float) -> None:
    updates = first_update(optimizer, mup(Stack(BLOCK, 2), width=64))  # four times the width, twice the depth
    for path, rate in ((MATRIX_PATH, matrix), (VECTOR_PATH, vector), ("embed/token", embedding)):
        np.testing.assert_allclose(at(updates, path), -rate, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("rms", [0.2, None])
def test_singular_values_of_muons_updates_stay(rms: float | None) -> None:
    """Of a matrix of 64 x 128 as of the base's, 16 x 32; so each number of an update is a fourth."""
    optimizer = Muon(Constant(0.1), rms=rms, decay=0.0, clip=None)
    small, large = (
        first_update(optimizer, mup(Stack(BLOCK, depth), width=width)) for depth, width in ((1, 16), (2, 64))
    )
    np.testing.assert_allclose(at(large, MATRIX_PATH)[:16, :16], at(small, MATRIX_PATH)[:16, :16] / 4, rtol=1e-3)
    np.testing.assert_allclose(at(large, "embed/token"), -0.1, rtol=1e-4)
    values = np.linalg.svd(at(large, MATRIX_PATH), compute_uv=False)
    np.testing.assert_allclose(values[0], np.linalg.svd(at(small, MATRIX_PATH), compute_uv=False)[0], rtol=1e-3)


@pytest.mark.slow
def test_weight_decay_times_rate_stays_and_epsilon_shrinks() -> None:
    model = mup(Stack(BLOCK, 2), width=64)
    params = jax.jit(model.init)(jax.random.key(0), BATCH)["params"]
    transform = AdamW(Constant(0.1), decay=0.5, epsilon=8.0, clip=None).build(10, params, roles(model, BATCH))
    updates, _ = transform.update(jax.tree.map(jnp.ones_like, params), transform.init(params), params)
    # a gradient of 1 gives 1 / (1 + epsilon / 8), a fourth of it for a matrix, and 0.5 times the parameter
    np.testing.assert_allclose(at(updates, MATRIX_PATH), -0.1 * (0.5 / 4 + 0.5 * at(params, MATRIX_PATH)), rtol=1e-4)


@pytest.mark.slow
def test_what_mup_does_not_know_is_refused_in_a_sentence() -> None:
    model = mup(Stack(BLOCK, 2))
    with pytest.raises(ValueError, match="AdamW, Lion, Muon and SGD, and the optimizer is optax.lion"):
        Optax("lion").build(10, model.init(jax.random.key(0), BATCH)["params"], roles(model, BATCH))
    with pytest.raises(ValueError, match="parametrization is 'mu'; give 'standard' or 'mup'"):
        dataclasses.replace(model, parametrization="mu")
    with pytest.raises(ValueError, match="base_width is 0"):
        Transformer(base_width=0)
    with pytest.raises(ValueError, match="base_width=6 cannot be built: .*divide"):
        roles(mup(Stack(BLOCK, 2), base=6), BATCH)


def experiment(block: Block, optimizer: Any) -> Experiment:
    data = Recall(pairs=3, length=12, vocab=12, examples=256, held=8)
    model = Transformer(TokenEmbed(12, 16), Stack(block, 2, norm=RMSNorm(), scan=True), LogitsHead())
    return Experiment(model, MaskedLM(), data, optimizer, batch_size=8, steps=1)


ADAM = AdamW(Constant(3e-3))


@pytest.mark.parametrize(
    ("tested", "by", "sizes"),
    [
        (experiment(BLOCK, ADAM), "width", [32, 256]),
        (experiment(MIXED, ADAM), "width", [32, 128]),
        (experiment(BLOCK, SGD(Constant(0.15))), "width", [32, 256]),
        (experiment(BLOCK, ADAM), "depth", [2, 16]),
        (experiment(BLOCK, Lion(Constant(1e-3))), "width", [32, 256]),
        (experiment(BLOCK, Muon(Constant(1e-2))), "width", [32, 256]),
    ],
    ids=["attention", "experts", "sgd", "depth", "lion", "muon"],
)
@pytest.mark.slow
def test_activations_keep_their_size_in_mup_and_grow_in_the_standard_parametrization(
    tested: Experiment, by: Any, sizes: Any
) -> None:
    curves = check(plan_sizes(tested, by, sizes, steps=5), by)
    slopes = {(curve.parametrization, curve.kind): curve.slope for curve in curves}
    scores = {"scores"} if isinstance(part(tested.model, "stack.block.mixer"), Attention) else set[str]()
    assert {kind for _, kind in slopes} == {"embed", "mixer", "feedforward", "stream", "head"} | scores
    assert all(is_flat(curve) for curve in curves if curve.parametrization == "mup"), slopes
    assert max(slope for (name, _), slope in slopes.items() if name == "standard") > 0.35, slopes


@pytest.mark.slow
def test_rates_that_do_not_follow_are_not_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.engine.prepared.roles", lambda model, batch: roles_of(model, batch))
    curves = check(plan_sizes(experiment(BLOCK, ADAM), "width", [32, 256], steps=5), "width")
    assert not all(is_flat(curve) for curve in curves if curve.parametrization == "mup")


@pytest.mark.slow
def test_the_command_draws_and_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(tmp_path))
    small = [
        "data.length=12",
        "data.pairs=3",
        "data.vocab=12",
        "model.embed.vocab=12",
        "batch_size=4",
        "model.stack.repeats=1",
    ]
    assert (
        main(
            [
                "coordinates",
                "recall",
                *small,
                "--sizes",
                "8,16",
                "--steps",
                "1",
                "--to",
                str(tmp_path / "plot"),
                "--json",
            ]
        )
        == 0
    )
    written = json.loads(capsys.readouterr().out)
    assert written == json.loads((tmp_path / "plot" / "coordinates.json").read_text())
    assert [curve["sizes"] for curve in written["curves"]] == [[8, 16]] * 12
    assert (tmp_path / "plot" / "coordinates.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.represented_by("one size", "no size", "depth")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--sizes", "64"], "give two sizes or more"),
        (["--sizes", "64,big"], "give two sizes or more"),
        (
            ["--by", "depth", "--sizes", "3,4", "model.stack.block=(Block(), Block())"],
            "3 is no whole number of repeats of stack's 2 blocks",
        ),
        (["--sizes", "64,70", "model.stack.block.mixer=Attention(heads=4)"], "splits width 70 over 4 heads"),
        (
            ["--sizes", "64,128", "optimizer=Optax('lion')"],
            "AdamW, Lion, Muon and SGD, and the optimizer is optax.lion",
        ),
    ],
    ids=["one size", "no size", "depth", "heads", "optimizer"],
)
def test_what_cannot_be_checked_is_refused_in_a_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(tmp_path))
    assert main(["coordinates", "recall", *arguments, "--to", str(tmp_path / "plot")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "plot").exists()
