"""Parallelism of a step: one device, all local devices by pmap, a mesh of data and fsdp axes."""

from train.parallel.jit import Jit
from train.parallel.mesh import RULES, Mesh
from train.parallel.pmap import Pmap

__all__ = ["Jit", "Mesh", "Pmap", "RULES"]
