"""Tests of the console and report.html."""
