"""Tests of sampling, beam search and what cannot decode."""
