"""Simulators that generate data, and in which models act."""
