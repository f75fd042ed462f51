"""A causal transformer of 8 thousand parameters on the bytes of text.txt in the working folder.

With MORPHAX_SIGNAL="step 13 SIGTERM" it gets that signal while step 13 is under way; with "evaluation 2 SIGINT" in its
second batch of an evaluation.
"""

import dataclasses
import os
import signal
from collections.abc import Callable
from typing import Any

from models import MLP, Attention, Block, LogitsHead, RoPE, Stack, TokenEmbed, Transformer
from train.data.tasks.corpus import Corpus
from train.experiment import Checkpoints, Evaluation, Experiment
from train.objectives import NextToken
from train.optimizers import AdamW, Cosine
from train.parallel import Jit


@dataclasses.dataclass(frozen=True)
class Signalled(Jit):
    """One device, and the signal that the environment asks for."""

    def compile_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
        compiled = super().compile_step(step)

        def signalled(state: Any, batch: Any) -> Any:
            _send("step", int(state.step) + 1)
            return compiled(state, batch)

        return signalled

    def compile_evaluation(self, evaluate: Callable[..., Any]) -> Callable[..., Any]:
        compiled = super().compile_evaluation(evaluate)
        batches: list[int] = []

        def signalled(params: Any, batch: Any) -> Any:
            batches.append(len(batches) + 1)
            _send("evaluation", batches[-1])
            return compiled(params, batch)

        return signalled


def _send(place: str, number: int) -> None:
    match os.environ.get("MORPHAX_SIGNAL", "").split():
        case [wanted, when, name] if (wanted, when) == (place, str(number)):
            signal.raise_signal(signal.Signals[name])


def experiment() -> Experiment:
    """50 steps of 4 windows, evaluated every 10 and saved every 9."""
    block = Block(mixer=Attention(heads=2, causal=True, position=RoPE()), feedforward=MLP(expand=2), dropout=0.1)
    return Experiment(
        model=Transformer(embed=TokenEmbed(vocab=256, width=16), stack=Stack(block, repeats=1), head=LogitsHead()),
        objective=NextToken(),
        data=Corpus(path="text.txt", length=16, holdout=0.3),
        optimizer=AdamW(Cosine(2e-3, warmup=0.05, end=0.1)),
        batch_size=4,
        steps=50,
        parallel=Signalled(),
        evaluation=Evaluation(every=10, batch_size=8),
        checkpoints=Checkpoints(every=9),
        log_every=3,
    )
