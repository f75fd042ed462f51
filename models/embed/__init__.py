"""Embeddings of tokens, images, videos and numbers, and the grids that parts of a model share."""
