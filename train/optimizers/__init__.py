"""Optimizers: update rules and learning-rate schedules over optax, and transforms by the roles of parameters."""

from train.optimizers.adaptive import Adafactor, Lion
from train.optimizers.averaged import ScheduleFreeAdamW
from train.optimizers.muon import Muon
from train.optimizers.private import Private
from train.optimizers.rules import SGD, AdamW, Optax
from train.optimizers.schedules import Constant, Cosine, Linear, WarmupStableDecay
from train.optimizers.soap import SOAP
from train.optimizers.transforms import route

__all__ = [
    "Adafactor",
    "AdamW",
    "Constant",
    "Cosine",
    "Linear",
    "Lion",
    "Muon",
    "Optax",
    "Private",
    "SGD",
    "SOAP",
    "ScheduleFreeAdamW",
    "WarmupStableDecay",
    "route",
]
