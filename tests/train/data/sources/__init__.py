"""Tests of sources of rows."""
