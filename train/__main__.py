"""`python -m train` and `morphax`: the commands of train.cli."""

import os
import sys

# XLA on CPU allocates its buffers anew each step: in huge pages, and in memory that the process keeps when they are
# freed, most of the time that the system would take to map them is saved
TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000"


def start() -> int:
    """Runs the command line; on Linux in a process that allocates for XLA on CPU, restarted before any slow import."""
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        os.execv(sys.executable, sys.orig_argv)
    from train.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(start())
