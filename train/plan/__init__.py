"""Plans: time and memory of a step on a TPU that is not there, compiled for it and never run."""
