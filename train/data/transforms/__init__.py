"""Transforms of examples while training: augmentation of images."""
