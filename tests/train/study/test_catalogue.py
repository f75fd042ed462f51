"""The catalogue of components is what the classes say."""

import pytest

from models import Attention
from train.study import catalogue
from train.study.catalogue import PLACE, collect_laws, list_classes, measure_defaults, summarize, write_page


def law_page_lists_every_class_as_it_is(text: str) -> None:
    assert text == write_page(), "models/README.md is stale: run python -m train.study.catalogue"
    assert all(f"[`{owner.__name__}`]" in text for owner in list_classes())


@pytest.mark.slow
def test_the_catalogue_is_not_stale() -> None:
    law_page_lists_every_class_as_it_is(PLACE.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_class_that_is_missing_makes_it_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "list_classes", lambda: list_classes()[1:])
    with pytest.raises(AssertionError, match="stale"):
        law_page_lists_every_class_as_it_is(PLACE.read_text(encoding="utf-8"))


def test_every_class_says_what_it_computes_and_numbers_are_those_of_attention() -> None:
    assert all(summarize(owner)[0] for owner in list_classes())
    # four matrices of 512 x 512, and products with 1,024 keys and values; a token keeps key and value, its place and
    # its segment
    assert measure_defaults(Attention) == (
        f"{4 * 512**2:,}",
        f"{(8 * 512**2 + 4 * 1024 * 512) / 1e6:.2f} M",
        f"{8 * 512 + 8:,} a token",
        "4.20 M",
    )


@pytest.mark.slow
def test_every_class_is_held_to_the_general_laws_and_causal_ones_to_theirs() -> None:
    general = {
        "json gives the same component",
        "compiled equals eager",
        "floats stay in their type",
        "every parameter has a gradient",
    }
    assert all(general <= set(collect_laws().get(owner.__name__, ())) for owner in list_classes())
    assert {"decoding is one pass", "causal sees nothing later", "segments do not mix"} <= set(
        collect_laws()["GatedDeltaNet"]
    )
