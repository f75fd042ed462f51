"""The laws of layers for a class of your own, which stands in no file of models/: `verdicts(MyMixer())`."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from models import Block, Stack
from models.laws.depth import law_scan_equals_loop
from models.laws.general import (
    law_compiled_equals_eager,
    law_equal_components_have_equal_parameters,
    law_every_parameter_has_a_gradient,
    law_floats_stay_in_their_type,
)
from models.laws.layer import law_causal_sees_nothing_later, law_keeps_the_shape, law_segments_do_not_mix

Law = Callable[[], None]


def laws_of(layer: Any, causal: bool) -> dict[str, Law]:
    """What must hold, in words, and what raises AssertionError where it does not."""
    again = dataclasses.replace(layer)
    causality = {"no output depends on a later token": partial(law_causal_sees_nothing_later, layer)} if causal else {}
    return {
        "(b, t, d) stays (b, t, d)": partial(law_keeps_the_shape, layer),
        "float32 stays float32, bfloat16 stays bfloat16": partial(law_floats_stay_in_their_type, layer),
        **causality,
        "examples packed into one row do not mix": partial(law_segments_do_not_mix, layer),
        "every parameter has a finite gradient that is not zero": partial(law_every_parameter_has_a_gradient, layer),
        "compiled and not compiled are the same function": partial(law_compiled_equals_eager, layer),
        "a scan over layers is the loop over them": partial(law_scan_equals_loop, Stack(Block(layer, None), 2)),
        "equal layers have equal parameters": partial(law_equal_components_have_equal_parameters, layer, again),
    }


def verdicts(layer: Any, causal: bool = True) -> dict[str, str]:
    """Each law in words, and "holds", or what went wrong.  `causal` for a mixer of language models."""
    found: dict[str, str] = {}
    for words, law in laws_of(layer, causal).items():
        try:
            law()
        except Exception as error:  # whatever the layer's own code raises
            said = next((text for text in str(error).splitlines() if text.strip()), "")
            found[words] = f"BROKEN {'' if isinstance(error, AssertionError) else type(error).__name__} {said}".strip()
        else:
            found[words] = "holds"
    return found
