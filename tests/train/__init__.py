"""Tests of train/, by its folders."""
