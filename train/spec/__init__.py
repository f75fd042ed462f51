"""Experiments as text: names of parts, JSON in both directions, overrides from the command line."""
