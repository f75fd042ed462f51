"""TFDS builders of data sets, each in the file of its name."""
