"""Where the words of a translation looked in their source: the weights of the decoder's attention to what the encoder
gave, by words.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from models.contracts import Batch, Model
from models.inspect.attention import attention_weights
from models.paths import order
from train.charts import Matrix
from train.contracts import Evidence
from train.data.tokens import Tokenizer
from train.page import Panels
from train.review.powers import Paired


def make_cross_attention(model: Model) -> Any:
    """The weights of the last layer's attention to the memory, the mean of its heads, as a pure function (params,
    batch) -> (b, t, s).

    (b, 0, 0) where the model has no such attention.  Earlier layers look at more words at once and are harder to read.
    """

    def outputs(params: Any, batch: Batch) -> Any:
        found = attention_weights(model, params, batch)
        last = max((path for path in found if path.rpartition("/")[2] == "cross"), key=order, default=None)
        return jnp.zeros((len(batch["tokens"]), 0, 0)) if last is None else found[last].astype(jnp.float32).mean(1)

    return outputs


def looked(evidence: Evidence, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[str], list[str], np.ndarray]]:
    """For each source and its translation the source's words, the translation's words, and where these looked when they
    were written.

    Row i of the matrix is word i of the translation, column j the weight of word j of the source: that of its tokens,
    and the mean over the tokens that are written.  Rows sum to what the attention gives out, which of a softmax is 1.
    """
    data = evidence.data
    assert isinstance(data, Paired)
    batch = data.beside(pairs, evidence.multiple)
    weights = evidence.compiled(make_cross_attention(evidence.model))(batch)
    if not weights.size:
        return []
    tokens = data.tokens
    found = []
    for row in range(len(pairs)):
        source = batch["source"][row, : (batch["source_segments"][row] > 0).sum()].tolist()
        written = batch["tokens"][row, 1 : (batch["segments"][row] > 0).sum() - 1].tolist()  # after begin, before end
        if not source or not written:  # a tokenizer that knows none of the characters
            continue
        (asked, begins), (said, starts) = by_words(tokens, source), by_words(tokens, written)
        matrix = np.add.reduceat(weights[row, : len(written), : len(source)], begins, axis=1)
        counts = np.diff([*starts, len(written)])[:, None]
        found.append((asked, said, np.add.reduceat(matrix, starts, axis=0) / counts))
    return found


def by_words(tokens: Tokenizer, ids: Sequence[int]) -> tuple[list[str], list[int]]:
    """The words that tokens spell, and where each begins; the tokens themselves where none of them begins with a
    space.
    """
    pieces = [tokens.decode([token]) for token in ids]
    begins = [place for place, piece in enumerate(pieces) if place == 0 or piece.startswith(" ")]
    if len(begins) == 1:
        begins = list(range(len(ids)))
    return [
        tokens.decode(ids[start:stop]).strip() for start, stop in zip(begins, [*begins[1:], len(ids)], strict=True)
    ], begins


def heat(panels: Sequence[tuple[list[str], list[str], np.ndarray]]) -> Panels:
    """The matrices as charts, the translation downwards, the source across."""
    return Panels(
        tuple(
            Matrix(tuple(map(tuple, matrix.tolist())), tuple(written), tuple(source), "source", "translation")
            for source, written, matrix in panels
        )
    )
