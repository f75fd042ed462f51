"""The command to use a finished run."""

import shlex
from pathlib import Path

from models.decoding.decodable import require_decodable
from models.decoding.sampling import padded
from train.contracts import Continues, Dataset, Tokenised, Unasked
from train.experiment import Experiment


def suggest_command(experiment: Experiment, data: Dataset, folder: Path) -> str:
    """Suggests `morphax generate` for a model of texts, `eval` if the data takes no questions, otherwise `predict`."""
    name = shlex.quote(str(folder))
    if isinstance(data, Unasked):
        return f"morphax eval {name}"
    objective = experiment.objective
    continues = isinstance(objective, Continues) and objective.continues
    if continues and isinstance(data, Tokenised) and _can_decode(experiment):
        return f"morphax generate {name} PROMPT"
    return f"morphax predict {name} INPUT"


def _can_decode(experiment: Experiment) -> bool:
    """Tells if the model can decode token by token."""
    try:
        require_decodable(experiment.model, padded([[0]]), 3)
    except ValueError:
        return False
    return True
