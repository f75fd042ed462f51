"""Every law of `morphax check` over every class of models/: a sound component is never called broken."""

from collections.abc import Collection

import flax.linen as nn
import pytest

from models import FirstToken, RMSNorm, Sigmoid, SoftmaxRouter, Stack
from models.contracts import Model, kind_of
from models.laws.applying import laws_of, verdict
from models.laws.general import (
    law_compiled_equals_eager,
    law_equal_components_have_equal_parameters,
    law_every_parameter_has_a_gradient,
    law_floats_stay_in_their_type,
)
from models.laws.verdict import name_of
from tests.laws.components import component_classes, forms_of

OTHERS = [
    next(iter(forms_of(owner).values()))
    for owner in component_classes()
    if owner is not Stack and kind_of(owner) is not Model
]


# test_components.py holds the same forms to these
ELSEWHERE = {
    name_of(law)
    for law in (
        law_compiled_equals_eager,
        law_equal_components_have_equal_parameters,
        law_every_parameter_has_a_gradient,
        law_floats_stay_in_their_type,
    )
}


def law_nothing_is_broken(component: nn.Module, words: str = "", but: Collection[str] = ()) -> None:
    found = [verdict(law) for law in laws_of(component) if words in law.name and law.name not in but]
    assert [(one.law, one.where) for one in found if one.verdict == "broken"] == []
    assert any(one.verdict == "holds" for one in found)


@pytest.mark.parametrize("component", [FirstToken(), Sigmoid()], ids=lambda component: type(component).__name__)
def test_general_laws_find_nothing_broken(component: nn.Module) -> None:
    law_nothing_is_broken(component, "equal")
    with pytest.raises(AssertionError):
        law_nothing_is_broken(component, "no law of this name")


@pytest.mark.slow
@pytest.mark.parametrize("component", [RMSNorm(), SoftmaxRouter()], ids=lambda component: type(component).__name__)
def test_no_law_is_broken(component: nn.Module) -> None:
    law_nothing_is_broken(component)


@pytest.mark.slow
@pytest.mark.parametrize("component", OTHERS, ids=lambda component: type(component).__name__)
def test_a_class_of_the_project_breaks_no_law(component: nn.Module) -> None:
    law_nothing_is_broken(component, but=ELSEWHERE)
