"""Measuring and comparing: cost, statistics, reports."""
