"""A TPU's compiler without a TPU; a line for each program that it compiles, and a summary."""

import pytest
from jax.sharding import SingleDeviceSharding

from train.study.topology import topology

TOPOLOGIES = ("v5e:1x1", "v6e:1x1")
seen: list[tuple[str, float]] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--effort", type=float, default=0.0, help="of the compiler, for the programs of configs: -1 is quickest, 0 its own")


@pytest.fixture(scope="session")
def device() -> SingleDeviceSharding:
    """One chip of a TPU v5e, to place abstract arrays on."""
    return SingleDeviceSharding(topology("v5e:1x1")[0])


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    found = dict(report.user_properties)
    if report.when == "call" and "seconds" in found:
        seen.append((str(found["name"]), float(str(found["seconds"]))))
        print("\n{name:44} {seconds:6.1f} s to compile {mib:8.1f} MiB at most {kilocycles:9.0f} kilocycles".format(**found), end="")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if seen:
        total = sum(seconds for _, seconds in seen)
        slowest = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in sorted(seen, key=lambda pair: -pair[1])[:5])
        terminalreporter.line(f"\n{len(seen)} programs compiled; one after the other they would take {total:.0f} s.")
        terminalreporter.line(f"The slowest: {slowest}.")
