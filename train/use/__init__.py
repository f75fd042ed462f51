"""Uses of an experiment: fit it, evaluate it, ask it."""
