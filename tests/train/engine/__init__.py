"""Tests of the step, run folders and resuming."""
