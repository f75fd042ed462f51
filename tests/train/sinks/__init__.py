"""Tests of sinks of events."""
