"""Data sets prepared once, each a TFDS builder in the file of its name."""
