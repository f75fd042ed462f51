"""Tests of metrics and reviews."""
