"""Data: sources, readers, tasks, builders, transforms, tokenizers and batches."""

import logging

logging.getLogger("absl").setLevel(logging.ERROR)  # Grain warns of older versions of jax on import
