"""Data: builders, readers, tokens, batches."""

import logging

logging.getLogger("absl").setLevel(logging.ERROR)  # Grain warns of an older jax as soon as it is imported
