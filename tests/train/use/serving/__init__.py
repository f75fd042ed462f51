"""Trained runs behind a server on this machine, asked by real clients."""
