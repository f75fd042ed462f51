"""Intermediate values of a model: attention weights by layer."""
