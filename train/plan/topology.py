"""Devices of TPU topologies that are not there, to compile for without running."""

import importlib.util
import math
import os
import re

import jax
from jax.experimental import topologies

from models.backend.platform import Device
from train.cost.chips import CHIPS
from train.errors import InputError

ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def read_topology(name: str) -> str:
    """Reads the name of a topology, CHIP:SHAPE, or CHIP-COUNT for a count of v5e or v6e chips, as in `v5e-8`.

    Raises InputError if the name is none.
    """
    if counted := re.fullmatch(r"(v5e|v5litepod|v6e)-(\d+)", name):
        power = int(counted[2]).bit_length() - 1
        if 2**power == int(counted[2]):
            name = f"{counted[1].replace('litepod', 'e')}:{2 ** (power // 2)}x{2 ** (power - power // 2)}"
    chip, _, shape = name.partition(":")
    if chip not in CHIPS or not re.fullmatch(r"\d+x\d+(x\d+)?", shape):
        raise InputError(
            f"{name!r} is no topology; give CHIP:SHAPE with a chip of {', '.join(CHIPS)}, such as v5e:1x1 or v5p:2x2x1."
        )
    return name


def require_compiler() -> None:
    """Raises InputError if the compiler of TPUs is missing."""
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("Compiling for a TPU needs libtpu, which is not installed; run: pip install 'morphax[tpu]'.")


def find_devices(name: str) -> list[Device]:
    """Finds the devices of a topology such as `v5e:2x4` or `v5e-8`, to place abstract arrays on and compile for.

    Computations that run stay on the CPU.  Raises InputError if the name is no topology, or libtpu is missing.
    """
    name = read_topology(name)
    require_compiler()
    chip, _, shape = name.partition(":")
    os.environ |= ENVIRONMENT
    jax.config.update("jax_platforms", "cpu")
    # No chip has hosts of a single chip by default; all other shapes are laid out as in the cloud.
    options: dict[str, tuple[int, ...] | str] = (
        {"chips_per_host_bounds": (1, 1, 1)} if math.prod(map(int, shape.split("x"))) == 1 else {}
    )
    if chip == "v4":  # its two cores are one device
        options["chip_config_name"] = "megacore"
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
    except Exception as error:  # whatever libtpu raises
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"libtpu knows no topology {name}: {said}; give another shape, such as {chip}:2x2x1."
        ) from None
