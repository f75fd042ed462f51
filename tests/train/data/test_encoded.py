"""Texts encoded in pieces, in memory and in files of the cache."""

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.train.data.tokenizers import (
    make_bert,
    make_byte_pairs,
    make_pairs_without_words,
    make_unigrams,
    read_prose,
)
from train.data.encoded import encode_blocks, encode_texts
from train.data.tokens import Bytes, Learnt, Published
from train.errors import InputError

TOKENIZERS: dict[str, Callable[[], Bytes | Published]] = {
    "bytes": Bytes,
    "learnt": lambda: Learnt([read_prose()], 600),
    "words in pieces": make_bert,
    "byte pairs": make_byte_pairs,
    "pairs without words": make_pairs_without_words,
    "unigrams": make_unigrams,
}


@pytest.mark.represented_by("bytes", "learnt")
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_text_in_pieces_has_the_tokens_of_the_whole(name: str) -> None:
    tokens = TOKENIZERS[name]()
    if isinstance(tokens, Published):
        tokens.words = None  # test_words.py has those
    hard = ["é数字\u00a0🙂" * 40, " " * 700, "=" * 3000, "\n" * 50, "<s></s>", "abc" * 300, "0" * 900]
    prose = read_prose()
    step = len(prose) // len(hard)
    mixed = "".join(prose[index * step : (index + 1) * step] + piece for index, piece in enumerate(hard))
    for text in (prose, mixed, "", "a", "=" * 5000):
        blocks = [text[start : start + 777] for start in range(0, len(text), 777)]
        whole = tokens.encode([text])[0]
        sizes = ((2**14, 2**8), (3000, 200), (500, 60), (200, 20)) if isinstance(tokens, Published) else ((0, 0),)
        for size in sizes:
            options = size if isinstance(tokens, Published) else ()
            found = np.concatenate([np.zeros(0, np.int32), *tokens.encode_blocks(blocks, *options)])
            np.testing.assert_array_equal(found, whole)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of encoded texts in a cache that every text is long enough for."""
    monkeypatch.setattr("train.data.encoded.IN_MEMORY", 10)
    monkeypatch.setenv("MORPHAX_CACHE", str(tmp_path))
    return tmp_path / "tokens"


SENTENCES = [f"sentence {number} of {number % 7} words" for number in range(3000)]


def test_texts_in_the_cache_are_those_in_memory(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = Learnt(SENTENCES, 300)
    for encode in (encode_texts, encode_blocks):
        first, second = (encode(tokens, lambda: iter(SENTENCES)) for _ in range(2))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("train.data.encoded.IN_MEMORY", 10**9)
            memory = encode(tokens, lambda: iter(SENTENCES))
        for cached in (first, second):
            assert isinstance(cached.ids.base, np.memmap)
            assert cached.ids.dtype == memory.ids.dtype == np.uint16
            assert cached.characters == memory.characters == sum(map(len, SENTENCES))
            np.testing.assert_array_equal(cached.ids, memory.ids)
    assert len(list(folder.iterdir())) == 2  # no scratch is left
    assert capsys.readouterr().err.count("tokenising a long text") == 2  # and not again
    texts = encode_texts(tokens, lambda: SENTENCES)
    for index in (0, 1, 2999):
        np.testing.assert_array_equal(texts[index], tokens.encode(SENTENCES)[index])
    assert texts.lengths.tolist() == [len(ids) for ids in tokens.encode(SENTENCES)]


@pytest.mark.parametrize("damage", ["cut", "changed", "without its description", "empty"])
def test_a_damaged_file_is_made_again_and_said(folder: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    right = encode_texts(Bytes(), lambda: SENTENCES).ids.tobytes()
    (inside,) = folder.iterdir()
    data = bytearray(right)
    if damage == "cut":
        (inside / "ids").write_bytes(data[:-5])
    elif damage == "changed":
        data[500] ^= 1
        (inside / "ids").write_bytes(data)
    elif damage == "empty":
        (inside / "about.json").write_text("")
    else:
        (inside / "about.json").unlink()
    capsys.readouterr()
    assert encode_texts(Bytes(), lambda: SENTENCES).ids.tobytes() == right
    said = capsys.readouterr().err
    assert f"{inside} is damaged and is made again" in said
    assert "tokenising" in said


def test_a_changed_text_or_tokenizer_or_cut_is_another_file(folder: Path) -> None:
    learnt = Learnt(SENTENCES, 300)
    for tokens, texts in (
        (Bytes(), SENTENCES),
        (Bytes(), [*SENTENCES[:-1], "sentence 2999 of 4 wordz"]),
        (Bytes(), [SENTENCES[0] + SENTENCES[1][:1], SENTENCES[1][1:], *SENTENCES[2:]]),
        (learnt, SENTENCES),
        (Learnt(SENTENCES, 280), SENTENCES),
    ):
        before = len(list(folder.iterdir())) if folder.exists() else 0
        found = encode_texts(tokens, lambda texts=texts: texts)
        np.testing.assert_array_equal(found.ids, np.concatenate(tokens.encode(texts)))
        assert len(list(folder.iterdir())) == before + 1


def test_a_text_that_changes_while_it_is_read_is_refused(folder: Path) -> None:
    turns = iter(("first", "other"))

    def read() -> Iterator[str]:
        yield from (f"{word} {number}" for word in [next(turns)] for number in range(100))

    with pytest.raises(InputError, match="has changed while it was read; run the same command again"):
        encode_texts(Bytes(), read)
    assert not list(folder.iterdir())


def test_a_cache_that_cannot_be_written_is_one_sentence(folder: Path) -> None:
    free = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, free[1]))
    try:
        with pytest.raises(InputError, match=r"tokens cannot be written: .*MORPHAX_CACHE names another folder"):
            encode_texts(Bytes(), lambda: SENTENCES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, free)
    assert not list(folder.iterdir())
