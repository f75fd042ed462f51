"""A packed classifier of sentences.csv in the working folder, its sentences as bytes."""

from models import bert
from train.data.tasks.text import Text
from train.experiment import Checkpoints, Evaluation, Experiment
from train.objectives import Classification
from train.optimizers import AdamW, Linear


def experiment() -> Experiment:
    """50 steps of 8 sentences in rows of 48 bytes, evaluated every 10 and saved every 9."""
    return Experiment(
        model=bert.classifier(2, bert.transformer(vocab=256, width=16, depth=1, heads=2, hidden=32, length=48)),
        objective=Classification(),
        data=Text(path="sentences.csv", length=48, holdout=0.25),
        optimizer=AdamW(Linear(2e-3, warmup=0.05)),
        batch_size=8,
        steps=50,
        evaluation=Evaluation(every=10, batch_size=8, metric="accuracy", greater=True),
        checkpoints=Checkpoints(every=9),
        log_every=3,
    )
