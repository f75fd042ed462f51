"""Runs that are served: the classifier of sentences that is in order, and a small language model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.places import CONFIGS
from tests.train.use.serving.live import Live, serve
from train.cli import main

LANGUAGE_MODEL = str(CONFIGS / "language_model.py")


@pytest.fixture(scope="session")
def classifier(sound: Path, cache: Path) -> Path:
    """A run that tells good reviews from bad ones, beside the files that it was trained on."""
    del cache
    return sound / "run"


@pytest.fixture(scope="session")
def writer(workshop: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that writes text."""
    run = tmp_path_factory.mktemp("writer") / "writer"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workshop)
        patch.setenv("MORPHAX_CACHE", str(cache))
        words = ["steps=120", "optimizer.rate.peak=1e-2", "evaluation.every=120", "checkpoints.every=120"]
        assert main(["train", LANGUAGE_MODEL, *words, "--run", str(run)]) == 0
    return run


@pytest.fixture(scope="session")
def live(classifier: Path, writer: Path) -> Iterator[Live]:
    """Both runs behind a server."""
    with serve(classifier, writer, config=LANGUAGE_MODEL) as live:
        yield live
