"""Parity with PyTorch: outputs, gradients and files against transformers and torch."""
