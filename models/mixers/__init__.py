"""Mixers of tokens without attention or a state: convolutions, fixed and learned mixing; layers over axes and in
parallel.
"""
