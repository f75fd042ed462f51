"""Grammars: edits that fields allow, the parts that fit, draws that build, and the union of two parents."""

import contextlib
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.structure import part
from tests.places import CONFIGS
from train.errors import InputError
from train.spec.encoding import decode, encode
from train.study.grammar import Edits, Grammar, add_edit, read_edits, write_edits

LANGUAGE_MODEL = str(CONFIGS / "language_model.py")
BLOCK = "model.stack.block"
OWN = """
import flax.linen as nn
import jax

from models.contracts import Layer, Norm


class Doubled(nn.Module):
    inner: Layer
    width: int = 3
    norm: Norm | None = None

    def __post_init__(self):
        if self.width > 5:
            raise ValueError("width is at most 5")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx):
        return 2 * self.inner(x, ctx)
"""


@pytest.fixture(scope="module")
def tiny() -> Grammar:
    return Grammar("tiny_lm")


def values(grammar: Grammar, path: str, edits: Edits = ()) -> list[str]:
    return [edit.value for edit in grammar.list_edits(edits) if edit.path == f"{BLOCK}.{path}"]


def draw(grammar: Grammar, seed: int) -> Edits:
    """One to three edits; fewer if their classes refuse the first ones."""
    generator = np.random.default_rng(seed)
    edits = grammar.mutate((), generator)
    with contextlib.suppress(InputError):
        for _ in range(seed % 3):
            edits = grammar.mutate(edits, generator)
    return edits


def build(grammar: Grammar, edits: Edits) -> None:
    """Encodes, decodes and initialises an edited model; raises InputError or ValueError if it cannot be built."""
    model = grammar.apply(edits).model
    assert decode(encode(model), grammar.names) == model
    jax.eval_shape(model.init, jax.random.key(0), {"tokens": jnp.zeros((2, 64), int)})


def test_fields_take_the_parts_that_fit_and_settings_that_both_have_are_kept(tiny: Grammar) -> None:
    mixers = values(tiny, "mixer")
    assert "GatedDeltaNet(heads=4)" in mixers
    assert "DifferentialAttention(causal=true, position=RoPE())" in mixers
    assert "Sum(layers=(Attention(heads=4, causal=true, position=RoPE()), MLP()))" in mixers
    assert not [text for text in mixers if text.startswith(("RMSNorm", "Attention("))], "norms, and what is there"
    assert "HyperConnections(norm=RMSNorm())" in values(tiny, "residual")
    assert "Attention(heads=4, causal=true)" in values(tiny, "feedforward"), "what all layers of the model share"
    assert set(values(tiny, "residual.norm")) >= {"LayerNorm()", "DynamicTanh()"}
    assert set(values(tiny, "mixer.weigh")) >= {"Sigmoid()"}
    assert set(values(tiny, "mixer.relative")) >= {"ALiBi()"}
    assert values(tiny, "mixer.position")[-1] == "none"
    assert set(values(tiny, "feedforward.activation")) >= {"relu", "squared_relu"}
    assert values(tiny, "mixer.heads") == ["2", "8"]
    assert values(tiny, "mixer.causal") == ["false"]
    assert values(tiny, "mixer.implementation") == [], "the program is no part of the structure"
    assert values(tiny, "residual.norm.epsilon") == [], "no size"


def test_no_edit_is_of_anything_but_what_is_asked_for(tiny: Grammar) -> None:
    assert all(edit.path.startswith(f"{BLOCK}.") for edit in tiny.list_edits())
    one = Grammar("tiny_lm", at=[f"{BLOCK}.mixer.position"])
    assert {edit.path for edit in one.list_edits()} == {f"{BLOCK}.mixer.position", f"{BLOCK}.mixer.position.base"}
    for path in ("data", "evaluation.metric", "seed", "models"):
        with pytest.raises(InputError, match=f"--at is '{path}'; a search edits the model, such as --at model"):
            Grammar("tiny_lm", at=[path])
    with pytest.raises(InputError, match="--at 'stack.blok'|--at 'model.stack.blok': Stack has no field 'blok'"):
        Grammar("tiny_lm", at=["model.stack.blok"])


def test_numbers_that_the_match_sets_are_left_to_it() -> None:
    path = f"{BLOCK}.feedforward.expand"
    paths = {
        budget: {edit.path for edit in Grammar("tiny_lm", budget=budget).list_edits()} for budget in ("flops", "none")
    }
    assert path not in paths["flops"]
    assert path in paths["none"]


def test_parts_of_the_users_own_take_part_and_hold_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    grammar = Grammar("tiny_lm", files=[str(file)])
    wrapped = "Doubled(inner=Attention(heads=4, causal=true, position=RoPE()))"
    assert wrapped in values(grammar, "mixer")
    edits = read_edits([f"{BLOCK}.mixer={wrapped}"])
    assert values(grammar, "mixer.width", edits) == ["1"], "6 is more than the class accepts"
    assert "LayerNorm()" in values(grammar, "mixer.norm", edits)
    assert values(grammar, "mixer.inner.heads", edits) == ["2", "8"]


def test_an_edit_replaces_those_of_its_path_and_below() -> None:
    edits = read_edits(["a.b=X()", "a.b.c=1", "a.bc=2"])
    assert write_edits(add_edit(edits, *read_edits(["a.b=Y()"]))) == ("a.bc=2", "a.b=Y()")
    assert write_edits(add_edit(edits, *read_edits(["a.b.c=3"]))) == ("a.b=X()", "a.bc=2", "a.b.c=3")


def test_what_changes_nothing_is_left_out(tiny: Grammar) -> None:
    same = [f"{BLOCK}.mixer.heads=4", f"{BLOCK}.feedforward.bias=true"]
    assert write_edits(tiny.simplify(read_edits(same))) == (f"{BLOCK}.feedforward.bias=true",)
    below = [f"{BLOCK}.mixer=MinGRU()", f"{BLOCK}.mixer.heads=8"]
    assert write_edits(tiny.simplify(read_edits(below))) == tuple(below), "it cannot be applied"


def test_a_crossover_joins_edits_of_different_paths(tiny: Grammar) -> None:
    left = read_edits([f"{BLOCK}.mixer=GatedDeltaNet(heads=4)", f"{BLOCK}.feedforward.bias=true"])
    right = read_edits([f"{BLOCK}.mixer.heads=8", f"{BLOCK}.residual=ReZero()", f"{BLOCK}.feedforward.bias=true"])
    assert write_edits(tiny.cross(left, right)) == (*write_edits(left), f"{BLOCK}.residual=ReZero()")
    assert write_edits(tiny.cross(right, left)) == write_edits(right)


def test_draws_follow_the_seed_and_are_structures(tiny: Grammar) -> None:
    drawn = [draw(tiny, seed) for seed in range(6)]
    assert [draw(tiny, seed) for seed in range(6)] == drawn
    assert len(set(drawn)) > 4
    for edits in drawn:
        with contextlib.suppress(InputError):  # of a class whose settings contradict each other
            experiment = tiny.apply(edits)
            assert decode(encode(experiment), tiny.names) == experiment
            for edit in edits:
                part(experiment, edit.path)


def test_nothing_to_edit_is_a_sentence() -> None:
    grammar = Grammar("tiny_lm", at=[f"{BLOCK}.residual.norm.epsilon"])
    with pytest.raises(InputError, match=f"nothing to edit at {BLOCK}.residual.norm.epsilon; give another --at PATH"):
        grammar.mutate((), np.random.default_rng(0))


@pytest.mark.slow
def test_of_two_hundred_draws_each_is_built_or_says_why_not(tiny: Grammar) -> None:
    built, refused = 0, Counter[str]()
    for seed in range(200):
        edits = draw(tiny, seed)
        assert {edit.path.split(".")[0] for edit in edits} <= {"model"}
        try:
            build(tiny, edits)
            built += 1
        except (InputError, ValueError) as error:  # of a class, or of its first call
            refused[(str(error).splitlines() or [""])[0]] += 1
    assert built + refused.total() == 200
    assert "" not in refused, "each has a reason"
    assert built > 120, refused
