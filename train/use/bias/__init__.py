"""Audits of bias: metrics by group with their gaps, counterfactual substitution of terms, and pages of both."""
