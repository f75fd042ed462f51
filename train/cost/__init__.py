"""Costs of computations: FLOPs of traced programs, instructions and bytes of compiled ones, what each chip can do."""
