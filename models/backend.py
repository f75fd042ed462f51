"""The backend: what must be set before jax compiles anything, and what it compiles for."""

import contextlib
import contextvars
import os
from collections.abc import Iterator

import jax
import jaxlib.version

FLAG = "--xla_cpu_experimental_ynn_fusion_type"

_target: contextvars.ContextVar[str | None] = contextvars.ContextVar("target", default=None)


def platform() -> str:
    """What is traced now will run on this: "cpu", "gpu" or "tpu"; jax's default backend, or what `compiling_for` says."""
    return _target.get() or jax.default_backend()


@contextlib.contextmanager
def compiling_for(name: str) -> Iterator[None]:
    """What is traced inside is for this platform, where it is not the one that traces: a TPU's program compiled on a CPU.

    Functions that jit has traced before keep their trace, so trace and lower here what nothing else has traced.
    """
    token = _target.set(name)
    try:
        yield
    finally:
        _target.reset(token)


def sum_correctly() -> None:
    """Keeps jaxlib 0.10.2 to 0.11 from fused sums on CPU, which it gets wrong in silence for long inputs (jax-ml/jax issue 39103).

    Without effect in another jaxlib, after the first computation, and where XLA_FLAGS names the setting already.
    """
    version = tuple(int(part) for part in jaxlib.version.__version__.split(".")[:3])
    flags = os.environ.get("XLA_FLAGS", "")
    if (0, 10, 2) <= version < (0, 12) and FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {FLAG}=-reduce".strip()
