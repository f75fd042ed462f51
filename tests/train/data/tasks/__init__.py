"""Tests of each kind of data."""
