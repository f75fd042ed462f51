"""Data: builders, readers, tokens, batches."""
