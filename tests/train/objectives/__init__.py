"""Tests of objectives against closed forms."""
