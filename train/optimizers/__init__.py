"""Optimizers: update rules and learning-rate schedules over optax, and transforms by the roles of parameters."""

from train.optimizers.rules import SGD, AdamW, Optax
from train.optimizers.schedules import Constant, Cosine, Linear, WarmupStableDecay
from train.optimizers.transforms import route

__all__ = ["AdamW", "Constant", "Cosine", "Linear", "Optax", "SGD", "WarmupStableDecay", "route"]
