"""The engine: the step, preparation, the loop, checkpoints, run folders."""
