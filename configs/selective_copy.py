"""Selective copying in 4 layers of width 64: which mixer can keep what matters and drop the rest?

python -m train selective_copy
python -m train selective_copy model.stack.block.mixer="GatedDeltaNet(heads=2)"     # any other mixer
"""

from configs.recall import solving
from train.data.synthetic import SelectiveCopy
from train.experiment import Experiment


def experiment() -> Experiment:
    """As `recall`, with another task."""
    return solving(SelectiveCopy())
