"""The engine: the step, what a run prepares, the loop, checkpoints, run folders."""
