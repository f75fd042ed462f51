"""Heads and pools: logits, classes, values and boxes; the loss of logits in chunks; a decoder before a head."""
