"""Kernels stored by their outputs while one text is decoded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import GLU, Attention, Block, LogitsHead, PreNorm, RMSNorm, RoPE, Stack, TokenEmbed, Transformer
from models.backend.platform import compile_for
from models.decoding import packing, sampling
from models.decoding.packing import transpose_kernels
from models.decoding.sampling import Sampler, generate
from tests.laws.components import parameters

BLOCK = Block(Attention(4, causal=True, position=RoPE()), GLU(), PreNorm(RMSNorm()))
MODEL = Transformer(TokenEmbed(300, 256), Stack(BLOCK, 1, RMSNorm()), LogitsHead())
STEPS = packing.FEWEST + 3


def test_kernels_of_middle_size_are_transposed_and_all_else_is_the_same_array() -> None:
    params = parameters(MODEL)
    turned = transpose_kernels(params)
    shapes = [
        (a.shape, b.shape) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(turned), strict=True) if a is not b
    ]
    assert len(shapes) == 7  # four of attention, three of the feedforward
    assert all(a == b[::-1] for a, b in shapes)
    again = transpose_kernels(turned)
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(again), strict=True))


@pytest.mark.parametrize("sampler", [Sampler(), Sampler(1.0)])
def test_one_text_is_the_same_with_kernels_stored_by_their_outputs(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, batch = parameters(MODEL), {"tokens": jnp.asarray([[7, 8, 9]])}
    seen: list[bool] = []
    monkeypatch.setattr(sampling, "transpose_kernels", lambda tree: seen.append(True) or transpose_kernels(tree))
    found = np.stack(list(generate(MODEL, params, batch, STEPS, sampler)), 1)
    assert len(seen) == 2  # before the loop, and inside it
    monkeypatch.setattr(packing, "FEWEST", STEPS + 1)
    assert (found == np.stack(list(generate(MODEL, params, batch, STEPS, sampler)), 1)).all()
    assert len(seen) == 2


def test_they_are_left_where_they_would_not_pay() -> None:
    assert packing.pays(1, packing.FEWEST)
    assert not packing.pays(2, packing.FEWEST)
    assert not packing.pays(1, packing.FEWEST - 1)
    with compile_for("tpu"):
        assert not packing.pays(1, packing.FEWEST)


def test_only_the_program_of_kernels_stored_by_their_outputs_may_add_in_any_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packing, "ANY_ORDER", {"no_such_option": True})  # which tells that the compiler is given it
    programs = packing.compile_both(lambda packed, x: x + packed, (), 0)
    assert programs[False](jnp.ones(())) == 1
    with pytest.raises(Exception, match="no_such_option"):
        programs[True](jnp.ones(()))
