"""A TPU's compiler without a TPU; a line for each model that it compiles, and a summary."""

import os

import jax
import pytest
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

os.environ |= {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
jax.config.update("jax_platforms", "cpu")
seen: list[tuple[str, float]] = []


@pytest.fixture(scope="session")
def device() -> SingleDeviceSharding:
    """One chip of a TPU v5e, to place abstract arrays on."""
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:1x1", chips_per_host_bounds=(1, 1, 1))
    return SingleDeviceSharding(topology.devices[0])


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    found = dict(report.user_properties)
    if report.when == "call" and "seconds" in found:
        seen.append((str(found["name"]), float(str(found["seconds"]))))
        print("\n{name:36} {seconds:6.1f} s to compile {mib:8.1f} MiB at most {kilocycles:9.0f} kilocycles".format(**found), end="")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if seen:
        total = sum(seconds for _, seconds in seen)
        slowest = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in sorted(seen, key=lambda pair: -pair[1])[:5])
        terminalreporter.line(f"\n{len(seen)} training steps compiled for TPU v5e; one after the other they would take {total:.0f} s.")
        terminalreporter.line(f"The slowest: {slowest}.")
