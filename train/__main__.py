"""`python -m train` and `morphax`: the commands of train.cli."""

import os
import sys


def start() -> int:
    """Runs the command line.  On Linux the process first begins anew, before anything heavy is imported, with memory in
    huge pages.

    XLA on CPU takes its buffers anew each step, and small pages cost time.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, sys.orig_argv)
    from train.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(start())
