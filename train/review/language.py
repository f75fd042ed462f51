"""Language models: bits a character, and where in a text the surprise is."""

import dataclasses
import html
import math

import jax
import numpy as np

from train.contracts import Counted, Findings, Tokenised
from train.review.trained import Trained


@dataclasses.dataclass(frozen=True)
class Language:
    """Bits a character = nats a token * tokens / characters / ln 2, which vocabularies do not change, and perplexity exp(nats a token).

    Shows `windows` of the test text, each token shaded by how much it surprised the model.
    """

    windows: int = 4

    def __post_init__(self) -> None:
        if self.windows < 0:
            raise ValueError(f"Language.windows is {self.windows}; give 0 or more.")

    def review(self, trained: Trained) -> Findings:
        """The findings on the whole text."""
        data, nats = trained.trainer.data, trained.measured["loss"]
        found = {"perplexity": math.exp(min(nats, 700.0))}
        if isinstance(data, Counted) and (characters := data.characters.get(trained.part)):
            found["bits_per_character"] = nats / math.log(2) * len(data.ids[trained.part]) / characters
        pictures = {}
        if self.windows:
            pictures["Surprise: the darker a token of the test text, the more nats it cost"] = self.surprise(trained)
        return Findings(found, pictures)

    def surprise(self, trained: Trained) -> str:
        """The first windows of the text, as a piece of a page."""
        trainer = trained.trainer
        rows = -(-self.windows // trainer.parallel.size()) * trainer.parallel.size()
        batch = trainer.data.batches(trained.part, rows, trainer.parallel.size(), None)[0]
        logits = np.asarray(trainer.outputs(trained.params, trainer.parallel.put(batch)), np.float32)
        logits = logits[:, :, 0] if logits.ndim == 4 else logits  # of several tokens ahead, the next
        losses = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits[:, :-1])), batch["tokens"][:, 1:, None], -1)[..., 0]
        tokens = trainer.data.tokens if isinstance(trainer.data, Tokenised) else None
        lines = []
        for row, costs, length in list(zip(batch["tokens"], losses, (batch["segments"] > 0).sum(1), strict=True))[: self.windows]:
            if not length:  # the text has fewer windows
                break
            words = [tokens.decode([int(token)]) if tokens else f"{token} " for token in row[:length]]
            spans = [html.escape(words[0])]
            for word, cost in zip(words[1:], costs, strict=False):
                shade = min(cost / 6, 1)
                spans.append(f'<span title="{cost:.2f} nats" style="background: rgb(208 84 44 / {shade:.2f})">{html.escape(word)}</span>')
            lines.append(f"<pre>{''.join(spans)}</pre>")
        return "".join(lines)
