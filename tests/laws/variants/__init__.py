"""Variants of components that the laws are checked on, one file a file of models/."""
