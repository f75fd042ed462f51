"""Weights of groups in the loss: the update of group DRO, refusals, and a planted gap that is halved."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models import MLP, Block, ClassHead, MeanPool, Stack, TokenEmbed, Transformer
from train.cli import main
from train.contracts import Parallel, Params
from train.engine.groups import Carried, Groups
from train.engine.step import initialise, make_outputs, make_step
from train.objectives import Classification, GroupDRO, GroupWeights
from train.objectives.classification import cross_entropy
from train.parallel import Jit, Mesh, Pmap
from train.sums import compute_means

COUNTS = np.array([70, 30])
MODEL = Transformer(TokenEmbed(8, 4), Stack(Block(MLP(1.0), None), 1), ClassHead(2, MeanPool()))
WAYS: dict[str, tuple[Parallel, int]] = {  # the parallelism and accumulated parts
    "alone": (Jit(), 1),
    "parts": (Jit(), 2),
    "pmap": (Pmap(), 1),
    "mesh": (Mesh(data=4, fsdp=2), 1),
    "parts on a mesh": (Mesh(data=2), 2),
}


@pytest.mark.parametrize(
    "spec", [GroupDRO("a", 0.5), GroupDRO("a", 0.3, 2.0), GroupWeights("a"), GroupWeights("a", (1.0, 3.0))]
)
@pytest.mark.represented_by("alone-spec0", "alone-spec1", "alone-spec2", "alone-spec3", "parts-spec0")
@pytest.mark.parametrize("way", WAYS)
def test_steps_are_those_of_the_formulas(spec: GroupDRO | GroupWeights, way: str) -> None:
    parallel, accumulate = WAYS[way]
    chance = np.random.default_rng(0)
    batches = [
        {
            "tokens": jnp.asarray(chance.integers(0, 8, (8, 5))),
            "labels": jnp.asarray(chance.integers(0, 2, 8)),
            "weights": jnp.ones(8),
            "group": jnp.asarray(chance.integers(0, 2, 8) if step else np.zeros(8, int)),  # a group may be absent
        }
        for step in range(4)
    ]
    groups = Groups(spec, ("x", "y"), COUNTS, spec.start(COUNTS), np.zeros(0, np.int32))
    optimizer = groups.carry(optax.sgd(0.5))
    params = MODEL.init(jax.random.key(0), batches[0])["params"]
    state = parallel.start(lambda: initialise(params, optimizer, 0))
    step = make_step(MODEL, Classification(), optimizer, accumulate=accumulate, groups=groups)
    step = parallel.compile_step(step)
    q = np.array([0.5, 0.5]) if not isinstance(spec, GroupWeights) or spec.weights is None else np.array([0.7, 0.9])
    for batch in batches:
        state, sums = step(state, parallel.put(jax.device_get(batch)))
        now, sums = jax.device_get((parallel.whole(state), sums))
        members = np.asarray(batch["group"])

        def losses(params: Params, batch: dict[str, jax.Array] = batch) -> jax.Array:
            return cross_entropy(make_outputs(MODEL)(params, batch), batch["labels"])

        factors = jnp.asarray((q * 100 / COUNTS)[members])
        grads = jax.grad(lambda params, factors=factors, losses=losses: jnp.mean(factors * losses(params)))(params)
        each = np.asarray(losses(params))
        if isinstance(spec, GroupDRO):
            for group in set(members.tolist()):
                rise = each[members == group].mean() + spec.adjustment / np.sqrt(COUNTS[group])
                q[group] *= np.exp(spec.eta * rise)
            q /= q.sum()
        params = jax.tree.map(lambda leaf, grad: leaf - 0.5 * grad, params, grads)
        assert isinstance(now.opt_state, Carried)
        np.testing.assert_allclose(now.opt_state.weights, q, rtol=1e-5)
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), now.params, params)
        assert compute_means(sums)["weight_of_y"] == pytest.approx(q[1], rel=1e-5)


@pytest.fixture
def inside(inside: Path) -> Path:
    """The same working folder with a table that has groups."""
    rows = [f"film {index},{('bad', 'good')[index % 2]},{'ab'[index % 3 == 0]}" for index in range(24)]
    (inside / "groups.csv").write_text("text,label,region\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return inside


def test_groups_that_cannot_be_weighed_are_refused(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["data.path=groups.csv", "data.test=none", "data.holdout=0.3", "--run", "new"]
    assert main(["train", "config.py", *data, "groups=GroupDRO('region')", "data.balance=0.5"]) == 2
    assert "which data.balance=0.5 changes" in capsys.readouterr().err
    for setting, sentence in (
        ("GroupDRO('sex')", "has no column 'sex'"),
        ("GroupWeights('region', (1.0, 2.0, 3.0))", "has 3 weights, and 'region' has 2 groups"),
        ("GroupDRO('region', eta=0)", "give an eta above 0"),
        ("GroupWeights('region', (-1.0, 2.0))", "give numbers of 0 or above"),
    ):
        assert main(["train", "config.py", *data, f"groups={setting}"]) == 2
        assert sentence in capsys.readouterr().err


PLANTED = """
from models import MLP, Block, ClassHead, MeanPool, Stack, TokenEmbed, Transformer
from train.data.tasks.text import Text
from train.experiment import Evaluation, Experiment
from train.objectives import Classification
from train.optimizers import AdamW, Constant


def experiment():
    return Experiment(
        model=Transformer(TokenEmbed(256, 16), Stack(Block(MLP(2.0), None), 1), ClassHead(2, MeanPool())),
        objective=Classification(),
        data=Text(path="train.csv", test="test.csv", length=32, buckets=(32,), pack=False),
        optimizer=AdamW(Constant(0.01), decay=0.0, clip=None),
        batch_size=64,
        steps=150,
        evaluation=Evaluation(batch_size=256),
    )
"""


def write_planted(path: Path, count: int, share: float, seed: int) -> None:
    """Texts of eight letters.  One tells the class in 85 % of all.  Four others do in 97 % of the large group, and tell
    the other class in 97 % of the small one.
    """
    chance = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        label, small = int(chance.integers(2)), bool(chance.random() < share)
        core = label if chance.random() < 0.85 else 1 - label
        easy = label if (chance.random() < 0.97) != small else 1 - label
        letters = list("xy"[easy] * 4 + "ab"[core] + "".join(chance.choice(list("klmn"), 3)))
        chance.shuffle(letters)
        rows.append(f"{''.join(letters)},{['no', 'yes'][label]},{('large', 'small')[small]}")
    path.write_text("text,label,size\n" + "\n".join(rows) + "\n", encoding="utf-8")


@pytest.mark.slow
def test_weights_of_groups_halve_a_planted_gap(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("planted.py").write_text(PLANTED)
    write_planted(Path("train.csv"), 3000, 0.05, 0)
    write_planted(Path("test.csv"), 1200, 0.5, 1)
    gaps: dict[str, float] = {}
    for name, settings in (
        ("none", []),
        ("fixed", ["groups=GroupWeights('size')"]),
        ("dro", ["groups=GroupDRO('size', eta=0.1)"]),
    ):
        assert main(["train", "planted.py", "--run", name, *settings]) == 0
        capsys.readouterr()
        assert main(["audit", "bias", name, "--groups", "size", "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        gap = next(gap for gap in said["gaps"] if gap["measure"] == "accuracy")
        gaps[name] = abs(gap["difference"])
        assert gap["found"] or name != "none"
    assert gaps["fixed"] < gaps["none"] / 2
    assert gaps["dro"] < gaps["none"] / 2
