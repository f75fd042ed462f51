"""Trained structures changed into others: growth in depth."""
