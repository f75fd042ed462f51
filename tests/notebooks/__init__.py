"""Notebooks of colab/, shortened and executed."""
