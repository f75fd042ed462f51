"""Drafts of speculative decoding as a command names them."""

from pathlib import Path

import numpy as np

from models.decoding.sampling import padded
from models.decoding.speculative import Draft, Drafter, Lookup
from train.contracts import Tokenised, Tokenizer
from train.engine.folder import open_run
from train.engine.prepared import prepare_inference
from train.errors import InputError
from train.precision import cast
from train.use.evaluate import restore_params

LOOKUP = "lookup"


def open_draft(asked: str, count: int | None, tokens: Tokenizer, config: str | None = None) -> Draft:
    """Opens a draft that foretells `count` tokens (None: its default) of a text of a tokenizer.

    `asked` is "lookup", or the folder of a run of a smaller model.  Raises InputError if there is no such run, or its
    tokens are others.
    """
    if asked == LOOKUP:
        return Lookup() if count is None else Lookup(count)
    folder = Path(asked)
    if not folder.is_dir():
        raise InputError(f"--draft is {asked!r}; give lookup, or the folder of a run of a smaller language model.")
    run = open_run(folder, config)
    data = run.experiment.data.reader(run.classes)
    if not isinstance(data, Tokenised) or tuple(data.tokens.names) != tuple(tokens.names):
        raise InputError(
            f"{folder} was trained on other tokens, so it foretells none of these; give a run with the same"
            " data.tokenizer, or lookup."
        )
    batch = {name: np.asarray(value) for name, value in padded([[0, 1]]).items()}
    inference = prepare_inference(run.experiment, data, batch)
    params = cast(restore_params(folder, inference, best=False)[1], run.experiment.precision)
    model = run.experiment.model
    return Drafter(model, params) if count is None else Drafter(model, params, count)
