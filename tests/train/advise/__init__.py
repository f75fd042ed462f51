"""Tests of advice on the user's data."""
