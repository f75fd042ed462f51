"""Heads and pools: logits, classes, values and boxes; the loss of logits in chunks."""
