"""Plans: what a step needs on a TPU that is not there, compiled for it and never run."""
