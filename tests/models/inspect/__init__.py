"""Tests of what is read off a model, and replaced in it."""
