"""Experiments as text: names of parts, JSON encoding and decoding, overrides from the command line."""
