"""Published architectures: a builder of the structure, and the names of its weights, one file a family."""
