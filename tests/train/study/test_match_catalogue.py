"""Budgets of every component of the catalogue: equal within 1 %, or a sentence says what came nearest."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from train.cost.value import Cost
from train.errors import InputError
from train.study.catalogue import list_classes
from train.study.costs import load_cost
from train.study.grammar import Grammar
from train.study.match import match

WIDTH = 64
SMALL = (
    "data=Corpus(path='text.txt', length=32, holdout=0.3)",
    f"model.embed.width={WIDTH}",
    "model.stack.repeats=1",
    "batch_size=2",
)
BLOCK, EMBED, HEAD = "model.stack.block", "model.embed", "model.head"
BASE = (*SMALL, f"{BLOCK}.feedforward=GLU(20)")  # so large that nearly every mixer finds room beside it
# Places of components that no edit of the block brings in.
ELSEWHERE = {
    "SoftmaxRouter": (f"{BLOCK}.feedforward=Experts(expand=12, router=SoftmaxRouter())",),
    "AuxiliaryLossFree": (f"{BLOCK}.feedforward=Experts(expand=12, router=AuxiliaryLossFree())",),
    "HashRouter": (f"{BLOCK}.feedforward=Experts(expand=12, router=HashRouter())",),
    "FactorisedEmbed": (f"{EMBED}=FactorisedEmbed(256, {WIDTH})", f"{HEAD}=LogitsHead(tied=False, vocab=256)"),
    "HashedNgramEmbed": (f"{EMBED}=HashedNgramEmbed(256, {WIDTH})",),
    "MultiTokenHead": (f"{HEAD}=MultiTokenHead(2)", "objective=NextTokens()"),
}
# What the baseline is made of.
PRESENT = {
    "Attention",
    "GLU",
    "LogitsHead",
    "PreNorm",
    "RMSNorm",
    "RoPE",
    "Softmax",
    "Stack",
    "TokenEmbed",
    "Transformer",
}
# Components of other inputs and outputs than texts, and of what reads no later token.
FOREIGN = {
    "BoxHead",
    "ClassHead",
    "ConvEmbed",
    "EncoderDecoder",
    "EveryToken",
    "FeatureEmbed",
    "FirstToken",
    "MeanPool",
    "PatchEmbed",
    "QueryEmbed",
    "TrajectoryEmbed",
    "TubeletEmbed",
    "ValueHead",
}
# What cannot have the baseline's FLOPs in rows of 32 tokens, and words of the sentence that says so.
REFUSED = {
    "Along": "which do not fill Along's grid",
    "LogLinearMamba2": r"with model\.\S+\.expand=1/64 it has \d+\.\d+ times as many, the nearest",
    "TokenMLP": r"with model\.\S+\.expand=1/64 it has \d+\.\d+ times as many, the nearest",
}


@functools.cache
def find_places() -> Mapping[str, tuple[str, ...]]:
    """Overrides that bring in each component, by its name."""
    places = dict(ELSEWHERE)
    for edit in Grammar("tiny_lm", SMALL).list_edits():
        name = re.match(r"\w+", edit.value)
        if edit.swaps and name is not None and edit.path != f"{BLOCK}.cross":
            places.setdefault(name.group(), (str(edit),))
    return places


@functools.cache
def load_target() -> Cost:
    return load_cost("tiny_lm", BASE)


@pytest.fixture(autouse=True)
def _inside(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)


@pytest.mark.slow
def test_every_component_has_a_place_or_is_of_other_inputs_and_outputs() -> None:
    assert {owner.__name__ for owner in list_classes()} <= {*find_places(), *PRESENT, *FOREIGN}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [owner.__name__ for owner in list_classes() if owner.__name__ not in PRESENT | FOREIGN]
)
def test_flops_are_equal_within_one_percent_or_a_sentence_says_what_is_nearest(name: str) -> None:
    overrides = (*BASE, *find_places()[name])
    if name in REFUSED:
        with pytest.raises(InputError, match=REFUSED[name]):
            match("tiny_lm", overrides, [], "flops", load_target(), WIDTH)
        return
    found = match("tiny_lm", overrides, [], "flops", load_target(), WIDTH)
    assert abs(found.ratio - 1) <= 0.01
    cost = load_cost("tiny_lm", [*overrides, *found.overrides])
    assert cost == found.cost
    assert abs(cost.flops / load_target().flops - 1) <= 0.01
