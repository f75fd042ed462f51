"""Token ids of texts word by word: a word that comes again is not encoded again."""

import array
import itertools
import json
import re
from collections.abc import Generator, Iterator, Sequence

import numpy as np
from tokenizers import Tokenizer

KEPT = 2**20  # characters of the words that are kept
LONGEST = 2**14  # characters of a word: a text with longer ones is not of words
TOGETHER = 2**17  # characters that are encoded at once
SPLIT = 2**10  # words that are encoded as one text where they are not kept
KEEPING = frozenset({"NFC", "NFD", "Lowercase"})  # normalizers that neither make nor drop white space
CLEANING = KEEPING | {"BertNormalizer", "StripAccents"}  # and those that only do so around words
DROPPING = frozenset({"BertPreTokenizer", "Whitespace", "WhitespaceSplit"})  # pre-tokenizers that drop white space
SPACES = " \t\r\n"  # what all take for white space


def take_together(blocks: Iterator[str], count: int) -> str:
    """Takes blocks of `count` characters or more together, fewer at their end."""
    taken, length = list[str](), 0
    while length < count and (block := next(blocks, None)) is not None:
        taken.append(block)
        length += len(block)
    return "".join(taken)


class Words:
    """The words that a tokenizer has met, each with its token ids as bytes; those of a text are joined.

    What comes out is what the tokenizer gives for the whole text without its special tokens.  A word has the white
    space before it, which begins with one of `SPACES`.  `spaced` tells if the tokenizer puts a space before a text that
    begins with none, also after a token of `added`, where therefore only a space begins a word.
    """

    def __init__(self, fast: Tokenizer, spaced: bool, added: Sequence[str]) -> None:
        after = "|".join(rf"(?<={re.escape(token)})" for token in added if spaced)
        within = rf"(?:[^\S{SPACES}]" + (rf"|(?:{after})[^\S ]" if after else "") + r")\s*+\S*+"
        self.find = re.compile(rf"\s*+\S++(?:{within})*+|\s++").findall
        self.fast = fast
        self.spaced = spaced
        self.first = len(fast.encode("a", add_special_tokens=False).ids)
        self.known: dict[str, bytes] = {}
        self.characters = 0  # of the words that are known

    @classmethod
    def of(cls, fast: Tokenizer) -> "Words | None":
        """The words of a tokenizer; None unless it surely encodes each by itself, with the white space before it.

        The pre-tokenizers of GPT-2 and BERT split a text wherever white space begins, whatever comes before and after:
        their patterns match none after anything else, and look ahead only from white space.  That must not depend on
        the normalizer, and no token that is added to the vocabulary may have white space or take it from after it.
        Byte pairs that are dropped by chance differ each time.
        """
        about = json.loads(fast.to_str())
        split, normal = about["pre_tokenizer"] or {"type": None}, about["normalizer"]
        normals = {each["type"] for each in (normal or {"normalizers": ()}).get("normalizers", (normal,))}
        bytewise = split["type"] == "ByteLevel" and split["use_regex"] and normals <= KEEPING
        wordwise = split["type"] in DROPPING and normals <= CLEANING
        added = about["added_tokens"]
        if not (bytewise or wordwise) or about["model"].get("dropout"):
            return None
        if any(each["rstrip"] or re.search(r"\s", each["content"]) or each["normalized"] and normals for each in added):
            return None
        return cls(fast, bool(bytewise and split["add_prefix_space"]), [each["content"] for each in added])

    def encode(self, texts: Sequence[str]) -> list[bytes] | None:
        """Encodes texts; None if more than half of them is of words that are not known, which would be slower."""
        words = [self.find(self._begin(text)) for text in texts]
        known = self._learn([*itertools.chain.from_iterable(words)], sum(map(len, texts)))
        return None if known is None else [b"".join(map(known.__getitem__, some)) for some in words]

    def encode_blocks(self, blocks: Iterator[str]) -> Generator[np.ndarray, None, tuple[Iterator[str], int]]:
        """Encodes one text that comes in blocks, up to a word of more than `LONGEST` characters.

        Returns how the text goes on from there, after a letter so that nothing is put before it, and how many tokens
        the letter has.
        """
        text = self._begin(take_together(blocks, TOGETHER))
        while True:
            *words, last = self.find(text) or [""]
            yield self._encode_words(words, len(text) - len(last))
            if len(last) > LONGEST:
                inside = last[0] in SPACES
                return itertools.chain(("a" * inside + last,), blocks), self.first * inside
            more = take_together(blocks, TOGETHER)
            text = last + more
            if not more:
                yield self._encode_words([text] if text else [], len(text))
                return iter(()), 0

    def _begin(self, text: str) -> str:
        """The text with the space that the tokenizer puts before its first word."""
        return f" {text}" if self.spaced and text[:1].isspace() and text[0] != " " else text

    def _encode_words(self, words: Sequence[str], characters: int) -> np.ndarray:
        """Encodes words that follow each other in a text, of so many characters."""
        known = self._learn(words, characters)
        if known is None:
            cuts = range(0, len(words), SPLIT)
            ids = self._encode_pieces(["".join(words[cut : cut + SPLIT]) for cut in cuts])
        else:
            ids = map(known.__getitem__, words)
        return np.frombuffer(b"".join(ids), np.int32)

    def _learn(self, words: Sequence[str], characters: int) -> dict[str, bytes] | None:
        """The known words, with all of these; None if more than half of their characters are of new ones."""
        known = self.known
        new = set(words).difference(known)
        added = sum(map(len, new))
        if 2 * added > characters:
            return None
        if self.characters + added > KEPT:  # in a new dict, since another thread may read the old one
            known, self.characters, new = {}, 0, set(words)
            self.known, added = known, sum(map(len, new))
        pieces = list(new)
        known.update(zip(pieces, self._encode_pieces(pieces), strict=True))
        self.characters += added
        return known

    def _encode_pieces(self, pieces: Sequence[str]) -> list[bytes]:
        """Encodes parts of a text that begin where a word does.

        Those that begin with white space follow a letter, so that nothing is put before them as before a text.
        """
        inside = [piece[0] in SPACES for piece in pieces]
        texts = ["a" * after + piece for piece, after in zip(pieces, inside, strict=True)]
        encodings = self.fast.encode_batch_fast(texts, add_special_tokens=False)
        return [
            array.array("i", encoding.ids[self.first * after :]).tobytes()
            for encoding, after in zip(encodings, inside, strict=True)
        ]
