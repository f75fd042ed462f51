"""Benchmarks: speed, memory and compiled programs, measured against PyTorch, MaxText and other layers."""
