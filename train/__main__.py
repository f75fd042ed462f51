"""`python -m train` and `morphax`: the commands of train.cli."""

import sys

from train.allocator import restart


def start() -> int:
    """Runs the command line, in a process with memory set for XLA on CPU; it restarts before any slow import."""
    restart()
    from train.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(start())
