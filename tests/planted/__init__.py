"""Faults of one line, planted one after the other, and the tests that find each."""
