"""What programs are compiled for, and what must be set before jax compiles anything."""

import contextlib
import contextvars
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jaxlib.version

SUMS = "--xla_cpu_experimental_ynn_fusion_type"
STACKS = "--fibers_default_thread_stack_size"

_target: contextvars.ContextVar[tuple[Any, ...] | str | None] = contextvars.ContextVar("target", default=None)


@contextlib.contextmanager
def compile_for(target: Sequence[Any] | str) -> Iterator[None]:
    """What is traced inside is meant for these devices, which need not be there (a topology's), or for this platform.

    Functions that jit has traced before keep their trace, so trace and lower here what nothing else has traced.
    """
    token = _target.set(target if isinstance(target, str) else tuple(target))
    try:
        yield
    finally:
        _target.reset(token)


def devices() -> list[Any]:
    """The devices that programs are traced for: all there are, or those of `compiling_for`."""
    target = _target.get()
    return list(target) if isinstance(target, tuple) else jax.devices()


def local_devices() -> list[Any]:
    """Those of the devices that this process has, or the first process of a topology would have."""
    found = devices()
    own = found[0].process_index if isinstance(_target.get(), tuple) else jax.process_index()
    return [device for device in found if device.process_index == own]


def platform() -> str:
    """Their kind: cpu, gpu or tpu.  Known while a function is traced, so that it decides what is compiled."""
    target = _target.get()
    if isinstance(target, tuple):
        return target[0].platform
    return target or jax.default_backend()


def kind() -> str:
    """What the devices that programs are traced for call themselves, such as "TPU v4"; empty where only their platform is known."""
    return "" if isinstance(_target.get(), str) else devices()[0].device_kind


def capability() -> str:
    """What the GPU that programs are traced for can do, as its maker counts: "7.5" of a T4, "gfx942"; empty where there is none."""
    return "" if platform() != "gpu" or isinstance(_target.get(), str) else str(getattr(devices()[0], "compute_capability", ""))


def compile_correctly() -> None:
    """Keeps compilers from two faults of theirs; without effect after the first computation, and where the settings are made already.

    jaxlib 0.10.2 to 0.11 gets fused sums on CPU wrong in silence for long inputs (jax-ml/jax issue 39103).  libtpu 0.0.42, asked for a
    v6e, overflows its stacks on some fusions, such as those of a narrow attention's backward pass, and ends the process.
    """
    version = tuple(int(part) for part in jaxlib.version.__version__.split(".")[:3])
    settings = [("LIBTPU_INIT_ARGS", STACKS, "4194304")]
    if (0, 10, 2) <= version < (0, 12):
        settings.append(("XLA_FLAGS", SUMS, "-reduce"))
    for variable, flag, value in settings:
        flags = os.environ.get(variable, "")
        if flag not in flags:
            os.environ[variable] = f"{flags} {flag}={value}".strip()
