"""Peak rates and memory of each TPU, from cloud.google.com/tpu/docs/NAME unless a line says otherwise.

If a chip appears as two devices (v2, v3, v7x), each device has half of these.
"""

import dataclasses

GIGA, TERA, GIB = 10**9, 10**12, 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak rates and memory of one chip.

    `flops` a second in bfloat16, bytes of `memory` (HBM), bytes a second from it (`bandwidth`) and to other chips by
    all links (`interconnect`), `devices` that jax shows, `hertz` of its clock (flops over products a cycle of its
    matrix units).
    """

    flops: float
    memory: float
    bandwidth: float
    interconnect: float
    devices: int
    hertz: float

    @property
    def share(self) -> "Chip":
        """The rates and memory of one of its devices."""
        return dataclasses.replace(
            self,
            flops=self.flops / self.devices,
            memory=self.memory / self.devices,
            bandwidth=self.bandwidth / self.devices,
            interconnect=self.interconnect / self.devices,
        )


def _make_chip(
    teraflops: float, gibibytes: float, gigabytes: float, links: float, devices: int, units: int, side: int
) -> Chip:
    """Makes a chip with `units` matrix units of side x side products a cycle; `links` counts both directions."""
    flops = teraflops * TERA
    return Chip(flops, gibibytes * GIB, gigabytes * GIGA, links * GIGA / 2, devices, flops / (2 * units * side**2))


CHIPS = {
    # v2 and v3: Jouppi et al., Communications of the ACM 63(7), 2020; four links a chip of 496 and 656 Gbit/s each way
    "v2": _make_chip(46, 16, 700, 496, 2, 2, 128),
    "v3": _make_chip(123, 32, 900, 656, 2, 4, 128),
    "v4": _make_chip(275, 32, 1200, 600, 1, 8, 128),  # six links of 50 GB/s each way: arXiv:2304.01433
    "v5e": _make_chip(197, 16, 819, 400, 1, 4, 128),
    "v5p": _make_chip(459, 95, 2765, 1200, 1, 8, 128),
    # the page counts two units, but then its rate would need a clock of 3.5 GHz
    "v6e": _make_chip(918, 32, 1638, 800, 1, 4, 256),
    "tpu7x": _make_chip(2307, 192, 7380, 1200, 2, 8, 256),
}
# dollars an hour of a chip on demand in the cheapest region, list prices of 2025 (cloud.google.com/tpu/pricing)
PRICES = {"v4": 3.22, "v5e": 1.20, "v5p": 4.20, "v6e": 2.70}
KINDS = {  # by `jax.Device.device_kind`
    "TPU v2": "v2",
    "TPU v3": "v3",
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "TPU7x": "tpu7x",
}


def find_chip(kind: str) -> Chip | None:
    """Finds the rates and memory of one device of a `jax.Device.device_kind`; None unless it is a TPU of CHIPS."""
    return CHIPS[KINDS[kind]].share if kind in KINDS else None
