"""Tests of plans for a TPU."""
