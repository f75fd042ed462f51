"""Languages: characters that usually follow, and words that usually stand for each other."""

import collections
import math
import re

import numpy as np

from tests.benchmarks.baselines import ALL, Figures, rows
from train.review.translations import score_texts


def characters(name: str, most: int = ALL, orders: tuple[int, ...] = (1, 3, 4, 5, 6)) -> Figures:
    """Nats a character of models that see the n - 1 before it, smoothed by Witten and Bell (IEEE Transactions 37,
    1991).

    p(c | context) = (count(context, c) + kinds p(c | shorter context)) / (count(context) + kinds), kinds the different
    ones that followed.
    """
    texts: dict[str, str] = {}
    for part in ("train", "test"):
        texts[part] = "\n".join(row["text"].decode() for row in rows(name, part))[:most]
    train, test = texts["train"], texts["test"]
    longest = max(orders)
    alphabet = len(set(train + test))
    followed: list[dict[str, collections.Counter[str]]] = [
        collections.defaultdict(collections.Counter) for _ in range(longest)
    ]
    for place, character in enumerate(train):
        for seen in range(min(longest, place + 1)):
            followed[seen][train[place - seen : place]][character] += 1
    totals = [{context: counts.total() for context, counts in level.items()} for level in followed]
    nats = np.zeros(longest)
    for place, character in enumerate(test):
        chance = 1 / alphabet
        for seen in range(longest):
            context = test[place - seen : place] if seen <= place else None
            counts = followed[seen].get(context) if context is not None else None
            if counts is not None and context is not None:
                chance = (counts[character] + len(counts) * chance) / (totals[seen][context] + len(counts))
            nats[seen] -= math.log(chance)
    return {f"{order}-grams of characters": {"loss": float(nats[order - 1]) / len(test)} for order in orders}


def dictionary(name: str, most: int = ALL, turns: int = 8) -> Figures:
    """The likeliest word for every word, in the order of the source, by IBM's model 1 (Brown et al. 1993, J93-2003)."""
    parts: dict[str, list[tuple[str, str]]] = {}
    for part in ("train", "test"):
        parts[part] = [(row["source"].decode(), row["target"].decode()) for row in rows(name, part, most)]
    pairs = [(split(source), split(target)) for source, target in parts["train"]]
    sides = [
        {word: number for number, word in enumerate(dict.fromkeys(word for pair in pairs for word in pair[side]))}
        for side in (0, 1)
    ]
    names = list(sides[1])
    # every word with every word of its translation; which written word of all it may explain
    meeting, written, count = [], [], 0
    for source, target in pairs:
        own, other = (
            np.array([sides[side][word] for word in words], np.int64) for side, words in enumerate((source, target))
        )
        meeting.append((own[:, None] * len(names) + other).ravel())
        written.append(np.tile(np.arange(count, count + len(other)), len(own)))
        count += len(other)
    kinds, inverse = np.unique(np.concatenate(meeting), return_inverse=True)
    place, owner = np.concatenate(written), kinds // len(names)
    chances = np.ones(len(kinds))
    for _ in range(turns):
        each = chances[inverse]
        shares = np.bincount(inverse, each / np.bincount(place, each)[place], len(kinds))
        chances = shares / np.bincount(owner, shares)[owner]
    best = {int(owner[entry]): int(kinds[entry] % len(names)) for entry in np.argsort(chances, kind="stable")}
    told = {word: names[best[number]] for word, number in sides[0].items()}
    said = [joined([told.get(word, word) for word in split(source)]) for source, _ in parts["test"]]
    return {"word for word, IBM model 1": score_texts(said, [target for _, target in parts["test"]])[0]}


def split(text: str) -> list[str]:
    """Words, with the marks inside of them and after them but for those that end a sentence."""
    return re.findall(r"[^\s.!?]+|[.!?]", text)


def joined(words: list[str]) -> str:
    """A sentence of such words."""
    return re.sub(r"\s+([.!?])", r"\1", " ".join(words))
