"""Residual connections: of one stream, and of several."""
