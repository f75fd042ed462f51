"""The C library's allocator, set for XLA on CPU, which allocates its buffers anew each step.

With huge pages, and memory that the process keeps when it is freed, most of the time that the system would take to map
fresh buffers is saved.  It reads its settings when a process starts.
"""

import os
import sys
from collections.abc import Mapping

NAME = "GLIBC_TUNABLES"
TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000"


def set_allocator(environment: Mapping[str, str]) -> dict[str, str]:
    """Adds the allocator's settings, on Linux, to the variables that a process starts with, unless it has its own."""
    return {NAME: TUNABLES, **environment} if sys.platform == "linux" else dict(environment)


def restart() -> None:
    """Starts this process again, by the same command, if it runs without settings of the allocator."""
    wanted = set_allocator(os.environ)
    if wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)
