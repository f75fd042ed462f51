"""`python -m train` and `morphax`: the commands of train.cli."""

import os
import sys


def start() -> int:
    """Runs the command line; on Linux in a process that allocates huge pages, restarted before any slow import.

    XLA on CPU allocates its buffers anew each step, which takes longer with small pages.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, sys.orig_argv)
    from train.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(start())
