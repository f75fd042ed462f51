"""Tests of checks and the catalogue."""
