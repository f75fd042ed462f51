"""Tests of readers of files."""
