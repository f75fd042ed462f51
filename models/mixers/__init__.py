"""Mixers of tokens without attention or a state: convolutions, learned or fixed mixing, layers over axes, combined."""
