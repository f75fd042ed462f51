"""Steps, plans and kernels compiled for a TPU that is not there."""
