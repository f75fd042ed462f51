"""Tests of counted costs."""
