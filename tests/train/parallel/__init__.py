"""Tests of the three ways to compile a step."""
