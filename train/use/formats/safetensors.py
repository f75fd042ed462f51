"""The parameters by their paths."""

from collections.abc import Collection
from pathlib import Path

from safetensors.numpy import load_file, save_file

from train.use.delivery import Delivery, Program
from train.use.formats import Format


def write(delivery: Delivery, folder: Path) -> Collection[str]:
    """Writes model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(delivery.weights, folder / "model.safetensors")
    return ()


def load(delivery: Delivery, folder: Path) -> Program:
    """Reads the parameters back, into the run's own model."""
    params = delivery.build(load_file(folder / "model.safetensors"))
    return lambda batch: delivery.compute(batch, params)


SAFETENSORS = Format(
    "safetensors", "model.safetensors holds the parameters by path, for this structure", write, load, ("int8",)
)
