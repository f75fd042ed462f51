"""Tests of fitting, evaluating and asking."""
