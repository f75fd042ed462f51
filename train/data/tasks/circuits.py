"""Tasks whose circuits are known: sentences whose last word follows from the others, and the same with other names."""

import dataclasses
from typing import NamedTuple

import numpy as np

from train.data.batches import Arrays
from train.data.tasks.synthetic import Made, Rule

TEMPLATES = (  # a and b in the order in which they are named, s the one that acts
    "when {a} and {b} went to the {place} , {s} gave the {thing} to",
    "then {a} and {b} met at the {place} , and {s} handed a {thing} to",
    "after {a} and {b} left the {place} , {s} passed the {thing} to",
    "while {a} and {b} worked at the {place} , {s} showed a {thing} to",
)
# fmt: off
PEOPLE = (
    "Adam", "Alice", "Anna", "Ben", "Carl", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Iris", "Jack",
    "Jane", "John", "Julia", "Kate", "Laura", "Leo", "Lucy", "Mark", "Mary", "Max", "Nina", "Paul", "Peter", "Rose",
    "Sam", "Sarah", "Simon", "Tom", "Victor"
)
# fmt: on
PLACES = ("garden", "house", "market", "office", "school", "station", "store", "theatre")
THINGS = ("basket", "book", "bottle", "drink", "letter", "map", "ring", "ticket")
PADDING = "[PAD]"
WORDS = (
    PADDING,
    *sorted({word for template in TEMPLATES for word in template.split() if not word.startswith("{")}),
    *(*PLACES, *THINGS, *PEOPLE),
)
IDS = {word: number for number, word in enumerate(WORDS)}


class Sentence(NamedTuple):
    """A sentence without its last word, the same with three other names, the right last word and the wrong one."""

    text: str
    other: str
    right: str
    wrong: str


class Pairs(NamedTuple):
    """Batches of sentences and of the same with other names, the right and the wrong token, and where: all (b,)."""

    clean: Arrays
    corrupted: Arrays
    right: np.ndarray
    wrong: np.ndarray
    at: np.ndarray


class Worded(Made):
    """Generated data whose tokens are words."""

    def __init__(self, task: Rule) -> None:
        super().__init__(task)
        self.names = (*WORDS, *map(str, range(len(WORDS), task.vocab)))


@dataclasses.dataclass(frozen=True)
class IndirectObjects(Rule):
    """Indirect-object identification: "when Mary and John went to the store , John gave the drink to" asks for Mary.

    Four templates, each with both orders of the names; a token is a word.  `make_pairs` adds the sentences with three
    names that are not in the first, of which none repeats, and `models.inspect.causal.subtract_logits` the metric.
    Wang et al. 2022, arXiv:2211.00593.
    """

    length: int = 18
    vocab: int = len(WORDS)
    examples: int = 64_000
    held: int = 1_024

    def __post_init__(self) -> None:
        longest = max(len(template.split()) for template in TEMPLATES)
        if self.length < longest or self.vocab < len(WORDS) or self.examples < 1 or self.held < 1:
            raise ValueError(
                f"IndirectObjects has length {self.length}, {self.vocab} tokens, {self.examples} examples and"
                f" {self.held} held out; give {longest} or more, {len(WORDS)} or more, and 1 or more of each."
            )

    def reader(self, classes: tuple[str, ...] = ()) -> Made:
        """Opens the generated data set."""
        return Worded(self)

    def make(self, chance: np.random.Generator, rows: int, length: int) -> Arrays:
        """Makes a batch."""
        return _tokenise([(sentence.text, sentence.right) for sentence in write_sentences(chance, rows)], length)

    def make_pairs(self, chance: np.random.Generator, rows: int) -> Pairs:
        """Makes sentences, and the same with other names: what patching puts into them and restores."""
        sentences = write_sentences(chance, rows)
        clean, corrupted = (
            _tokenise([(text, sentence.right) for sentence, text in zip(sentences, texts, strict=True)], self.length)
            for texts in zip(*((sentence.text, sentence.other) for sentence in sentences), strict=True)
        )
        right, wrong = (
            np.array([IDS[word] for word in words], np.int32)
            for words in zip(*((sentence.right, sentence.wrong) for sentence in sentences), strict=True)
        )
        return Pairs(clean, corrupted, right, wrong, clean["weights"].argmax(1))


def write_sentences(chance: np.random.Generator, rows: int) -> list[Sentence]:
    """Writes sentences of random templates, names, places and things, for any tokenizer."""
    sentences: list[Sentence] = []
    for _ in range(rows):
        first, second, *others = (PEOPLE[index] for index in chance.permutation(len(PEOPLE))[:5])
        template = TEMPLATES[chance.integers(len(TEMPLATES))]
        place, thing = (words[chance.integers(len(words))] for words in (PLACES, THINGS))
        right, wrong = (first, second) if chance.integers(2) else (second, first)
        text, other = (
            template.format(a=a, b=b, s=s, place=place, thing=thing) for a, b, s in ((first, second, wrong), others)
        )
        sentences.append(Sentence(text, other, right, wrong))
    return sentences


def _tokenise(answered: list[tuple[str, str]], length: int) -> Arrays:
    """Tokens (b, length), padded at the end; the label of the last word is the answer, of weight 1."""
    tokens = np.zeros((len(answered), length), np.int32)
    labels, weights = np.zeros_like(tokens), np.zeros(tokens.shape, np.float32)
    for row, (text, answer) in enumerate(answered):
        words = [IDS[word] for word in text.split()]
        tokens[row, : len(words)] = words
        labels[row, len(words) - 1], weights[row, len(words) - 1] = IDS[answer], 1.0
    return {"tokens": tokens, "labels": labels, "weights": weights}
