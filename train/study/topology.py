"""A TPU's compiler without a TPU."""

import os

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
V5E_HERTZ = 1.5e9  # 197 TFLOP/s in bfloat16 by four units of 128 x 128 products a cycle: cloud.google.com/tpu/docs/v5e


def v5e() -> SingleDeviceSharding:
    """One chip of a TPU v5e, to place abstract arrays on and compile for; needs libtpu, which the extra `tpu` has.

    Computations that really run stay on the CPU.
    """
    os.environ |= ENVIRONMENT
    jax.config.update("jax_platforms", "cpu")
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:1x1", chips_per_host_bounds=(1, 1, 1))
    return SingleDeviceSharding(topology.devices[0])
