"""Tests of data: batches, archives, questions."""
