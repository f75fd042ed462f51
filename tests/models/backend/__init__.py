"""Tests of platforms and compiler flags."""
