"""The target that programs are compiled for, and compiler flags to set before jax compiles anything."""

import contextlib
import contextvars
import os
from collections.abc import Iterator, Sequence
from typing import Protocol

import jax
import jaxlib.version

SUMS = "--xla_cpu_experimental_ynn_fusion_type"
STACKS = "--fibers_default_thread_stack_size"


class Device(Protocol):
    """A device of jax; its own class, `jax.Device`, has no type."""

    @property
    def platform(self) -> str: ...

    @property
    def device_kind(self) -> str: ...

    @property
    def process_index(self) -> int: ...


_target: contextvars.ContextVar[tuple[Device, ...] | str | None] = contextvars.ContextVar("target", default=None)


@contextlib.contextmanager
def compile_for(target: Sequence[Device] | str) -> Iterator[None]:
    """Compiles what is traced inside for this platform, or for these devices, attached or not (a topology's).

    Functions that jit has traced before keep their trace, so trace and lower here what nothing else has traced.
    """
    token = _target.set(target if isinstance(target, str) else tuple(target))
    try:
        yield
    finally:
        _target.reset(token)


def devices() -> list[Device]:
    """The devices that programs are traced for: all attached ones, or those of `compile_for`."""
    target = _target.get()
    return list(target) if isinstance(target, tuple) else jax.devices()


def local_devices() -> list[Device]:
    """The devices of this process, or those that the first process of a topology would have."""
    targets = devices()
    process = targets[0].process_index if isinstance(_target.get(), tuple) else jax.process_index()
    return [device for device in targets if device.process_index == process]


def platform() -> str:
    """The platform of the devices: cpu, gpu or tpu.  Known while a function is traced, so code can branch on it."""
    target = _target.get()
    if isinstance(target, tuple):
        return target[0].platform
    return target or jax.default_backend()


def kind() -> str:
    """The device kind that programs are traced for, such as "TPU v4"; empty if only the platform is known."""
    return "" if isinstance(_target.get(), str) else devices()[0].device_kind


def capability() -> str:
    """The compute capability of the GPU that programs are traced for: "7.5" for a T4, "gfx942"; empty without a GPU."""
    return (
        ""
        if platform() != "gpu" or isinstance(_target.get(), str)
        else str(getattr(devices()[0], "compute_capability", ""))
    )


def compile_correctly() -> None:
    """Sets compiler flags that avoid two compiler bugs.  No effect after the first computation; flags already set stay.

    jaxlib 0.10.2 to 0.11 silently computes wrong fused sums on CPU for long inputs (jax-ml/jax issue 39103).
    libtpu 0.0.42, compiling for a v6e, overflows its stacks on some fusions, such as those of a narrow attention's
    backward pass, and ends the process.
    """
    version = tuple(int(part) for part in jaxlib.version.__version__.split(".")[:3])
    settings = [("LIBTPU_INIT_ARGS", STACKS, "4194304")]
    if (0, 10, 2) <= version < (0, 12):
        settings.append(("XLA_FLAGS", SUMS, "-reduce"))
    for variable, flag, value in settings:
        flags = os.environ.get(variable, "")
        if flag not in flags:
            os.environ[variable] = f"{flags} {flag}={value}".strip()
