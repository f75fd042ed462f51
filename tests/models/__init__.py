"""Tests of models/ beside the laws."""
