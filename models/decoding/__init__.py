"""Decoding: sampling, beam search, and the refusal of models that cannot decode."""
