"""Alignment of a translation with its source: weights of the decoder's cross-attention, by words."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from models.contracts import Batch, Model
from models.inspect.attention import attention_weights
from models.inspect.intermediates import by_depth
from train.charts import Matrix
from train.contracts import Evidence, Params, Tokenizer
from train.page import Panels
from train.review.powers import Paired


def make_cross_attention(model: Model) -> Callable[[Params, Batch], jax.Array]:
    """Makes a pure function (params, batch) -> weights (b, t, s): the last cross-attention, averaged over heads.

    (b, 0, 0) if the model has no cross-attention.  Earlier layers attend to more words at once and are harder to read.
    """

    def compute_weights(params: Params, batch: Batch) -> jax.Array:
        weights = attention_weights(model, params, batch)
        last = max((path for path in weights if path.rpartition(".")[2] == "cross"), key=by_depth, default=None)
        return jnp.zeros((len(batch["tokens"]), 0, 0)) if last is None else weights[last].astype(jnp.float32).mean(1)

    return compute_weights


def align_words(evidence: Evidence, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[str], list[str], np.ndarray]]:
    """Aligns words of each translation with words of its source: source words, translated words, weights.

    Row i of the matrix is word i of the translation, column j the weight of word j of the source: the sum over its
    tokens, and the mean over those of the translated word.  Rows sum to the total weight, which is 1 for a softmax.
    """
    data = evidence.data
    assert isinstance(data, Paired)
    batch = data.beside(pairs, evidence.multiple)
    weights = evidence.compiled(make_cross_attention(evidence.model))(batch)
    if not weights.size:
        return []
    tokens = data.tokens
    alignments = []
    for row in range(len(pairs)):
        source = batch["source"][row, : (batch["source_segments"][row] > 0).sum()].tolist()
        written = batch["tokens"][row, 1 : (batch["segments"][row] > 0).sum() - 1].tolist()  # after begin, before end
        if not source or not written:  # the tokenizer knows none of the characters
            continue
        source_words, begins = group_words(tokens, source)
        words, starts = group_words(tokens, written)
        matrix = np.add.reduceat(weights[row, : len(written), : len(source)], begins, axis=1)
        counts = np.diff([*starts, len(written)])[:, None]
        alignments.append((source_words, words, np.add.reduceat(matrix, starts, axis=0) / counts))
    return alignments


def group_words(tokens: Tokenizer, ids: Sequence[int]) -> tuple[list[str], list[int]]:
    """Groups tokens into words, and returns these with their first indices; the tokens if none begins with a space."""
    pieces = [tokens.decode([token]) for token in ids]
    begins = [index for index, piece in enumerate(pieces) if index == 0 or piece.startswith(" ")]
    if len(begins) == 1:
        begins = list(range(len(ids)))
    return [
        tokens.decode(ids[start:stop]).strip() for start, stop in zip(begins, [*begins[1:], len(ids)], strict=True)
    ], begins


def draw_heatmaps(panels: Sequence[tuple[list[str], list[str], np.ndarray]]) -> Panels:
    """Draws the matrices as charts, the translation downwards, the source across."""
    return Panels(
        tuple(
            Matrix(tuple(map(tuple, matrix.tolist())), tuple(written), tuple(source), "source", "translation")
            for source, written, matrix in panels
        )
    )
