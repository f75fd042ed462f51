"""n-grams of tokens, the simple method beside a language model."""

import collections
import math
import time
from collections.abc import Iterator, Sequence

import numpy as np

from train.advise.measured import Measured
from train.advise.terms import COUNTS, GRAMS, Terms
from train.data.tasks.corpus import OpenedCorpus

ORDERS = (1, 3, 5)
MOST = 2_000_000  # tokens of each part that are counted


def measure_grams(data: OpenedCorpus, orders: Sequence[int] = ORDERS, share: float = 1.0) -> Iterator[Measured]:
    """Measures n-grams in nats a token, on the windows that models are tested on, smoothed by Witten and Bell.

    They are counted in the first `share` of the training part.

    p(c | context) = (count(context c) + kinds p(c | shorter context)) / (count(context) + kinds), with kinds the number
    of different tokens that followed the context (IEEE Transactions on Information Theory 37, 1991).
    """
    began = time.perf_counter()
    train, test = (data.ids[part][:MOST].tolist() for part in ("train", "test"))
    train = train[: max(1, round(share * len(train)))]
    followed = count_following(train, max(orders))
    fitted = time.perf_counter()
    nats = measure_nats(followed, test, data.vocab)
    spent, length = (time.perf_counter() - fitted) / max(1, len(test)), data.spec.length
    windows = range(0, len(data.ids["test"]), length)
    for order in orders:
        # the first token of a window is given to a model
        scores = [nats[order - 1, start + 1 : start + length] for start in windows]
        means = np.array([window.mean() if len(window) else math.nan for window in scores])
        said = f"Witten-Bell, orders 1 to {order}, over the tokens of {type(data.tokens).__name__}"
        yield Measured(
            f"{order}-grams",
            "baseline" if order == 1 else "simple",
            means,
            fitted - began,
            spent * length,
            said,
            find_gram_terms(order),
            share=share,
            examples=len(train),
        )


def find_gram_terms(order: int) -> Terms:
    """Finds what n-grams keep of a text."""
    return GRAMS if order > 1 else COUNTS


def count_following(tokens: Sequence[int], longest: int) -> list[dict[tuple[int, ...], collections.Counter[int]]]:
    """Counts which tokens follow each context of 0 to longest - 1 tokens."""
    followed: list[dict[tuple[int, ...], collections.Counter[int]]] = [
        collections.defaultdict(collections.Counter) for _ in range(longest)
    ]
    for index, token in enumerate(tokens):
        for seen in range(min(longest, index + 1)):
            followed[seen][tuple(tokens[index - seen : index])][token] += 1
    return followed


def measure_nats(
    followed: Sequence[dict[tuple[int, ...], collections.Counter[int]]], tokens: Sequence[int], vocab: int
) -> np.ndarray:
    """Measures -log p of each token (orders, n) by n-grams of every order."""
    totals = [{context: counts.total() for context, counts in level.items()} for level in followed]
    nats = np.zeros((len(followed), len(tokens)))
    for index, token in enumerate(tokens):
        chance = 1 / vocab
        for seen, level in enumerate(followed):
            context = tuple(tokens[index - seen : index]) if seen <= index else None
            if context is not None and (counts := level.get(context)) is not None:
                chance = (counts[token] + len(counts) * chance) / (totals[seen][context] + len(counts))
            nats[seen, index] = -math.log(chance)
    return nats
