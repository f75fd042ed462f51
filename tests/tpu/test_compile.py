"""Every component, in a training step of two layers or more, compiles for a TPU that is not there."""

import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from models import Attention, Context, DeltaNet
from models.backend.platform import compile_for
from tests.laws.trained import Trained, everything, resized, trained_with, training_batch
from tests.tpu.conftest import TOPOLOGIES
from train.cost.hlo import Program
from train.engine.step import initialise, make_step
from train.optimizers import SGD
from train.plan.topology import find_devices

ROWS, LENGTH, WIDTH = 2, 128, 128


def compiled(trained: Trained, where: str) -> Any:
    """The training step in bfloat16, with float32 parameters and plain descent, compiled for a topology."""
    model, batch, devices = (
        resized(trained.model, WIDTH, LENGTH),
        training_batch(trained, ROWS, LENGTH),
        find_devices(where),
    )
    with compile_for(devices):
        params = jax.eval_shape(lambda: model.init(jax.random.key(0), batch))["params"]
        optimizer = SGD().build(10, params)
        state = jax.eval_shape(lambda params: initialise(params, optimizer, 0), params)
        place = SingleDeviceSharding(devices[0])
        given = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), (state, batch))
        return (
            jax.jit(make_step(model, trained.objective, optimizer, "bfloat16"), donate_argnums=0)
            .lower(*given)
            .compile()
        )


@pytest.mark.parametrize("where", TOPOLOGIES)
@pytest.mark.parametrize("trained", [pytest.param(one, id=one.name) for one in everything()])
def test_the_training_step_compiles(trained: Trained, where: str, record_property: Callable[[str, Any], None]) -> None:
    start = time.monotonic()
    program = compiled(trained, where)
    record_property("seconds", time.monotonic() - start)
    record_property("name", f"{where} {trained.name}")
    record_property("mib", program.memory_analysis().peak_memory_in_bytes / 2**20)
    record_property("kilocycles", (cycles := Program(program.as_text()).sum_cycles()) / 1000)
    assert cycles > 0


class Spectral(nn.Module):
    """Broken: eigenvalues of a general matrix, which only CPU and GPU compute."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], x.shape[-1]))
        return x * jnp.linalg.eigvals(jax.lax.stop_gradient(kernel).astype(jnp.float32)).real.astype(x.dtype)


def test_a_component_that_a_tpu_cannot_run_fails() -> None:
    (trained,) = trained_with(Spectral)
    with pytest.raises(NotImplementedError, match="eig"):
        compiled(trained, TOPOLOGIES[0])


@pytest.mark.parametrize("owner", [Attention, DeltaNet])
def test_programs_that_broke_the_compiler_for_a_v6e_compile_at_its_full_effort(owner: type) -> None:
    (trained,) = trained_with(owner)
    assert compiled(trained, TOPOLOGIES[1])
