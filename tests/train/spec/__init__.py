"""Tests of experiments as text."""
