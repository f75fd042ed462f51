"""Language models: bits a character, and where in a text the surprise is."""

import dataclasses
import math

import jax
import numpy as np

from train.contracts import Counted, Dataset, Evidence, Findings, Tokenised
from train.page import Piece, Shaded


@dataclasses.dataclass(frozen=True)
class Language:
    """Bits a character = nats a token * tokens / characters / ln 2, which vocabularies do not change, and perplexity
    exp(nats a token).

    Shows `windows` of the test text, each token shaded by how much it surprised the model.
    """

    windows: int = 4

    def __post_init__(self) -> None:
        if self.windows < 0:
            raise ValueError(f"Language.windows is {self.windows}; give 0 or more.")

    def names(self, data: Dataset) -> tuple[str, ...]:
        """Perplexity, and bits a character of data that knows its characters."""
        counted = isinstance(data, Counted) and data.characters.get("test")
        return ("perplexity", "bits_per_character") if counted else ("perplexity",)

    def measure(self, evidence: Evidence) -> dict[str, tuple[float, float]]:
        """Both of the loss on the whole text."""
        return {name: (value, math.inf) for name, value in self.metrics_of(evidence).items()}

    def metrics_of(self, evidence: Evidence) -> dict[str, float]:
        """The metrics by name."""
        data, nats = evidence.data, evidence.measured["loss"]
        found = {"perplexity": math.exp(min(nats, 700.0))}
        if isinstance(data, Counted) and (characters := data.characters.get(evidence.part)):
            found["bits_per_character"] = nats / math.log(2) * len(data.ids[evidence.part]) / characters
        return found

    def review(self, evidence: Evidence) -> Findings:
        """The findings on the whole text."""
        pictures: dict[str, Piece] = {}
        if self.windows:
            pictures["Surprise: the darker a token of the test text, the more nats it cost"] = self.surprise(evidence)
        return Findings(self.metrics_of(evidence), pictures)

    def surprise(self, evidence: Evidence) -> Shaded:
        """The first windows of the text."""
        batch = evidence.first(self.windows)
        logits = evidence.compiled()(batch).astype(np.float32)
        logits = logits[:, :, 0] if logits.ndim == 4 else logits  # of several tokens ahead, the next
        losses = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits[:, :-1])), batch["tokens"][:, 1:, None], -1)[
            ..., 0
        ]
        tokens = evidence.data.tokens if isinstance(evidence.data, Tokenised) else None
        lines = []
        for row, costs, length in list(zip(batch["tokens"], losses, (batch["segments"] > 0).sum(1), strict=True))[
            : self.windows
        ]:
            if not length:  # the text has fewer windows
                break
            words = [tokens.decode([int(token)]) if tokens else f"{token} " for token in row[:length]]
            amounts = [None, *map(float, costs)]
            lines.append(tuple(zip(words, amounts, strict=False)))
        return Shaded(tuple(lines), unit="nats", full=6.0)
