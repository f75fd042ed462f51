"""Language models: bits a character, perplexity, and the surprise of each token."""

import dataclasses
import math

import jax
import numpy as np

from train.contracts import Counted, Dataset, Evidence, Findings, Tokenised
from train.objectives.language import select_loss
from train.page import Piece, Shaded


@dataclasses.dataclass(frozen=True)
class Language:
    """Perplexity exp(nats a token), and bits a character = nats a token * tokens / characters / ln 2.

    Bits a character do not depend on the vocabulary.  Shows `windows` of the test text, each token shaded by its loss.
    """

    windows: int = 4

    def __post_init__(self) -> None:
        if self.windows < 0:
            raise ValueError(f"Language.windows is {self.windows}; give 0 or more.")

    def names(self, data: Dataset) -> tuple[str, ...]:
        """Perplexity, and bits a character if the data counts its characters."""
        counted = isinstance(data, Counted) and data.characters.get("test")
        return ("perplexity", "bits_per_character") if counted else ("perplexity",)

    def measure(self, evidence: Evidence) -> dict[str, tuple[float, float]]:
        """The metrics on the whole text, without intervals."""
        return {name: (value, math.inf) for name, value in self.derive_metrics(evidence).items()}

    def derive_metrics(self, evidence: Evidence) -> dict[str, float]:
        """Derives the metrics from the loss of the next token, by name."""
        data, nats = evidence.data, select_loss(evidence.measured)
        metrics = {"perplexity": math.exp(min(nats, 700.0))}
        if isinstance(data, Counted) and (characters := data.characters.get(evidence.part)):
            metrics["bits_per_character"] = nats / math.log(2) * len(data.ids[evidence.part]) / characters
        return metrics

    def review(self, evidence: Evidence) -> Findings:
        """The findings on the whole text."""
        pictures: dict[str, Piece] = {}
        if self.windows:
            shaded = self.shade_surprise(evidence)
            pictures["Surprise: the darker a token of the test text, the more nats it cost"] = shaded
        return Findings(self.derive_metrics(evidence), pictures)

    def shade_surprise(self, evidence: Evidence) -> Shaded:
        """Shades the tokens of the first windows by their loss."""
        batch = evidence.first(self.windows)
        logits = evidence.compiled()(batch).astype(np.float32)
        logits = logits[:, :, 0] if logits.ndim == 4 else logits  # the next of several tokens ahead
        scores = np.asarray(jax.nn.log_softmax(logits[:, :-1]))
        losses = -np.take_along_axis(scores, batch["tokens"][:, 1:, None], -1)[..., 0]
        tokens = evidence.data.tokens if isinstance(evidence.data, Tokenised) else None
        lines = []
        rows = list(zip(batch["tokens"], losses, (batch["segments"] > 0).sum(1), strict=True))
        for row, costs, length in rows[: self.windows]:
            if not length:  # the text has fewer windows
                break
            words = [tokens.decode([int(token)]) if tokens else f"{token} " for token in row[:length]]
            amounts = [None, *map(float, costs)]
            lines.append(tuple(zip(words, amounts, strict=False)))
        return Shaded(tuple(lines), unit="nats", full=6.0)
