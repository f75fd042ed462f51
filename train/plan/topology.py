"""A TPU's compiler without a TPU: devices that programs are compiled for and never run on."""

import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from train.cost.chips import CHIPS
from train.errors import InputError

ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def topology(name: str) -> list[Any]:
    """The devices of `v5e:2x4` and the like, to place abstract arrays on and compile for.

    Computations that really run stay on the CPU.  Raises InputError where the name is none, and where libtpu is
    missing.
    """
    chip, _, shape = name.partition(":")
    if chip not in CHIPS or not re.fullmatch(r"\d+x\d+(x\d+)?", shape):
        raise InputError(
            f"{name!r} is no topology; give CHIP:SHAPE with a chip of {', '.join(CHIPS)}, such as v5e:1x1 or v5p:2x2x1."
        )
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("Compiling for a TPU needs libtpu, which is not installed; run: pip install 'morphax[tpu]'.")
    os.environ |= ENVIRONMENT
    jax.config.update("jax_platforms", "cpu")
    # A host with a single chip is not the default of any; all others are laid out as the cloud has them.
    given: dict[str, Any] = {"chips_per_host_bounds": (1, 1, 1)} if math.prod(map(int, shape.split("x"))) == 1 else {}
    if chip == "v4":  # whose two cores are one device
        given["chip_config_name"] = "megacore"
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **given).devices)
    except Exception as error:  # whatever libtpu raises
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"libtpu knows no topology {name}: {said}; give another shape, such as {chip}:2x2x1."
        ) from None
