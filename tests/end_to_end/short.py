"""Configs that `make test` trains from end to end."""

# One application; the others are slow.  Sentiment and tiny_lm are the README's, which its test runs; own pictures,
# series, drives and translations are trained on in tests of their files.
FAST = ("topics_bert",)
