"""A TPU's compiler without a TPU; a line for each program that it compiles, and a summary."""

from collections.abc import Iterator

import jax
import pytest
from jax.sharding import SingleDeviceSharding

from train.plan.topology import find_devices

TOPOLOGIES = ("v5e:1x1", "v6e:1x1")
EFFORT = "jax_exec_time_optimization_effort"
QUICK = f"for configs, plans and all of {TOPOLOGIES[1]}"
seen: list[tuple[str, float]] = []
jax.config.update("jax_disable_most_optimizations", False)  # which are what is looked at


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--effort", type=float, default=0.0, help=f"of the compiler, {QUICK}: -1 is quickest, 0 its own")


@pytest.fixture(autouse=True)
def _effort(request: pytest.FixtureRequest) -> Iterator[None]:
    """With --effort=-1 compiling takes down to a third of its time, and programs several times the cycles that `morphax
    plan` tells of.
    """
    given = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    quick = given.get("where") == TOPOLOGIES[1] or request.node.path.stem in ("test_configs", "test_plan")
    quick = quick and (given.get("name"), given.get("where")) != ("lm_tpu", TOPOLOGIES[0])  # whose ceiling is asked for
    if not hasattr(jax.config, EFFORT):  # as newer versions of jax have none
        yield
        return
    jax.config.update(EFFORT, request.config.getoption("--effort") if quick else 0.0)
    yield
    jax.config.update(EFFORT, 0.0)


@pytest.fixture(scope="session")
def device() -> SingleDeviceSharding:
    """One chip of a TPU v5e, to place abstract arrays on."""
    return SingleDeviceSharding(find_devices("v5e:1x1")[0])


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    found = dict(report.user_properties)
    if report.when == "call" and "seconds" in found:
        seen.append((str(found["name"]), float(str(found["seconds"]))))
        print(
            "\n{name:44} {seconds:6.1f} s to compile {mib:8.1f} MiB at most {kilocycles:9.0f} kilocycles".format(
                **found
            ),
            end="",
        )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if seen:
        total = sum(seconds for _, seconds in seen)
        slowest = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in sorted(seen, key=lambda pair: -pair[1])[:5])
        terminalreporter.line(f"\n{len(seen)} programs compiled; one after the other they would take {total:.0f} s.")
        terminalreporter.line(f"The slowest: {slowest}.")
        effort = terminalreporter.config.getoption("--effort")
        terminalreporter.line(
            f"Effort {effort:g} {QUICK}; at less than 0 cycles are more than those of `morphax plan`."
        )
