"""Platforms, the choice of an implementation, and fused kernels."""
