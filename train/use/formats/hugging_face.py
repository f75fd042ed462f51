"""A folder of Hugging Face, for structures that have one."""

from collections.abc import Collection
from pathlib import Path

from models.families.folder import read_hf, save_hf
from models.transformer import Transformer
from train.errors import InputError, convert_errors
from train.use.delivery import Delivery, Program
from train.use.formats import Format

INSTEAD = "; export it to stablehlo or safetensors."


def write(delivery: Delivery, folder: Path) -> Collection[str]:
    """Writes config.json and model.safetensors.  Raises InputError for a structure of no family."""
    model = delivery.experiment.model
    if not isinstance(model, Transformer):
        raise InputError(f"A {type(model).__name__} has no Hugging Face form{INSTEAD}")
    data = delivery.inference.data
    with convert_errors(after=INSTEAD):
        save_hf(model, delivery.params, folder, labels=data.names if data.classes else ())
    return ()


def load(delivery: Delivery, folder: Path) -> Program:
    """Reads the weights back, into the run's own model."""
    model = delivery.experiment.model
    assert isinstance(model, Transformer)
    params = read_hf(folder, model).params
    return lambda batch: delivery.compute(batch, params)


HUGGING_FACE = Format("hf", "config.json and model.safetensors are for transformers' from_pretrained", write, load)
