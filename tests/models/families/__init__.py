"""Tests of families of published weights."""
