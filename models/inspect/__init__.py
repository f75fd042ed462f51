"""Intermediate values of a model: captured, replaced, and what they say of how it computes."""
