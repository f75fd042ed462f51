"""Operations counted from the trace, against XLA's own count."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from models import GLU, Experts
from models.laws.inputs import Component
from tests.laws.components import component_classes, forms_of
from tests.places import CONFIGS
from tests.train.cost.unrolled import count_products, passes_of
from train.config import load_config
from train.cost.traced import count_flops
from train.engine.prepared import prepare
from train.engine.requirements import settle

WITHIN = 0.02
# Components whose products XLA's analysis cannot count, and the reason.
UNCOUNTED = {
    Experts: "on a CPU an expert's rows are multiplied in a loop of as many trips as the router asks for, of which XLA"
    " counts one trip for each size of block; the trace counts the rows that are routed",
}
CLASSES = [owner for owner in component_classes() if owner not in (GLU, *UNCOUNTED)]


def law_counts_are_those_of_xla(component: Component) -> None:
    for name, (function, args) in passes_of(component).items():
        ours, theirs = count_flops(function, *args), count_products(function, *args)
        assert abs(ours - theirs) <= WITHIN * theirs, f"{name}: {ours} counted, {theirs} by XLA"


@pytest.mark.parametrize(
    "owner", [pytest.param(GLU), *(pytest.param(owner, marks=pytest.mark.slow) for owner in CLASSES)]
)
def test_the_products_of_a_class_are_those_that_xla_counts(owner: type) -> None:
    law_counts_are_those_of_xla(next(iter(forms_of(owner).values())))


def test_xla_counts_a_loop_that_is_written_out_and_products_alone() -> None:
    x, w = jax.ShapeDtypeStruct((8, 16), jnp.float32), jax.ShapeDtypeStruct((16, 16), jnp.float32)

    def looped(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda state, _: (jnp.tanh(state @ w) + 1, None), x, None, 5)[0]

    assert count_products(looped, x, w) == 5 * 2 * 8 * 16 * 16


@pytest.mark.slow
def test_the_rows_of_experts_are_those_of_their_choices() -> None:
    layer, count, width = Experts(4, 2, dispatch="ragged"), 16, 16
    function, args = passes_of(layer)["forward"]
    hidden = round(layer.expand * width)
    routing = 2 * count * width * layer.experts
    assert count_flops(function, *args) == routing + layer.active * count * 3 * 2 * width * hidden


@pytest.mark.slow
def test_a_compiled_training_step_has_the_counted_operations_and_few_others(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop)
    settings = ["model.embed.width=512", "data.length=64", "batch_size=8", "model.stack.block.dropout=0"]
    experiment, _ = load_config(str(CONFIGS / "language_model.py"), settings)
    data = experiment.data.open()
    prepared = prepare(settle(experiment, data)[0], data)
    arguments = prepared.parallel.abstract(prepared.state, prepared.batch)
    counted = jax.jit(prepared.pure_step).lower(*arguments).compile().cost_analysis()
    assert counted is not None
    assert counted["flops"] == pytest.approx(prepared.work, rel=WITHIN)
