"""Exported runs in environments that have the library of their format and nothing of this project."""
