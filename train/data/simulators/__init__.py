"""Simulators that data is made by, and that models drive in."""
