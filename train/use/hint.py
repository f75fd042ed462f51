"""The command that a finished run is used with."""

import shlex
from pathlib import Path

from models.decoding.decodable import require_decodable
from models.decoding.sampling import padded
from train.contracts import Continues, Dataset, Tokenised, Unasked
from train.experiment import Experiment


def suggest_command(experiment: Experiment, data: Dataset, folder: Path) -> str:
    """`morphax generate` for a model that continues texts, `eval` if nothing can be asked, otherwise `predict`."""
    name = shlex.quote(str(folder))
    if isinstance(data, Unasked):
        return f"morphax eval {name}"
    objective = experiment.objective
    continues = isinstance(objective, Continues) and objective.continues
    if continues and isinstance(data, Tokenised) and _can_decode(experiment):
        return f"morphax generate {name} PROMPT"
    return f"morphax predict {name} INPUT"


def _can_decode(experiment: Experiment) -> bool:
    """If the model can give one token after another."""
    try:
        require_decodable(experiment.model, padded([[0]]), 3)
    except ValueError:
        return False
    return True
