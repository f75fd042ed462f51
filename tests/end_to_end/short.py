"""Configs that `make test` trains from end to end."""

# One of each road: the others of its kind are slow.
# Own pictures, clips, series, drives and translations are trained on in tests of their files.
FAST = ("topics_bert", "detect_digits", "lm_shakespeare")
