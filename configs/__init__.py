"""One file, one experiment: the docstring has the command, the time and the measured number."""
