"""Tests: laws of every component, each road end to end, and what they share."""
