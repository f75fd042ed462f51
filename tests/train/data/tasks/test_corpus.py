"""Windows of one long text, whole and masked."""

from pathlib import Path

import numpy as np
import pytest

from train.contracts import PART
from train.data.tasks.corpus import Corpus, Masking


def test_windows_are_pieces_of_the_text_from_an_offset_that_changes_by_epoch(prose: str) -> None:
    text = Path(prose).read_text(encoding="utf-8")
    batches = Corpus(path=prose, test=prose, length=32).open().batches("train", 8, 1, 5)
    offsets: list[int] = []
    for epoch in range(4):
        starts: list[int] = []
        for step in range(epoch * len(batches), (epoch + 1) * len(batches)):
            for tokens, segments in zip(batches[step]["tokens"], batches[step]["segments"], strict=True):
                if segments.any():
                    window = bytes(tokens.astype(np.uint8)).decode()
                    assert segments.all()
                    assert text.count(window) == 1
                    starts.append(text.index(window))
        assert starts != sorted(starts)
        offset = min(starts)
        # each piece once, none overlapping
        assert sorted(starts) == [offset + 32 * index for index in range(len(starts))]
        assert len(starts) == (len(text) - 32) // 32
        offsets.append(offset)
    assert len(set(offsets)) > 1
    assert all(0 <= offset < 32 for offset in offsets)


def test_windows_of_a_test_split_start_at_the_beginning_in_order(prose: str) -> None:
    text = Path(prose).read_text(encoding="utf-8")
    batches = Corpus(path=prose, test=prose, length=32).open().batches("test", 8, 1, None)
    found = [
        bytes(row.astype(np.uint8)).decode()
        for step in range(len(batches))
        for row in batches[step]["tokens"]
        if row.any()
    ]
    assert "".join(found).rstrip("\0") == text
    segments = [row for step in range(len(batches)) for row in batches[step]["segments"]]
    assert np.sum(segments) == len(text)


def test_a_holdout_is_the_last_part_of_a_text(prose: str) -> None:
    opened = Corpus(path=prose, length=32, holdout=0.2).open()
    text = Path(prose).read_text(encoding="utf-8")
    whole = "".join(bytes(opened.ids[part].astype(np.uint8)).decode() for part in ("train", "test"))
    assert whole == text
    assert len(opened.ids["test"]) == pytest.approx(0.2 * len(text), abs=1)


def test_a_text_is_read_as_it_stands_whatever_ends_its_lines(tmp_path: Path) -> None:
    text = "FIRST:\nSpeak.\n\n\nSECOND:\nI speak.\n" * 20
    (tmp_path / "a.txt").write_text(text, newline="\n")
    (tmp_path / "b.txt").write_text("\ufeff" + text, encoding="utf-8", newline="\r\n")
    for name in ("a.txt", "b.txt"):
        opened = Corpus(path=str(tmp_path / name), length=16).open()
        assert "".join(bytes(opened.ids[part].astype(np.uint8)).decode() for part in ("train", "test")) == text


def test_a_corpus_is_asked_the_texts_of_a_file(prose: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("to be\n\nor not\n", encoding="utf-8")
    opened = Corpus(path=prose, length=32).reader()
    assert opened.list_questions(["whether", str(tmp_path / "a.txt")]) == ["whether", "to be", "or not"]


def test_a_corpus_learns_its_own_byte_pairs_from_the_training_part(prose: str) -> None:
    opened = Corpus(path=prose, length=32, holdout=0.2, tokenizer="bpe:300").open()
    assert opened.vocab == 300
    assert opened.tokens.decode(list(opened.tokens.encode(["it was, and is"])[0])).strip() == "it was, and is"
    assert len(opened.ids["train"]) < len(Corpus(path=prose, length=32, holdout=0.2).open().ids["train"])
    with pytest.raises(ValueError, match="Corpus.tokenizer is 'bpe:9'"):
        Corpus(tokenizer="bpe:9")


def test_masking_picks_15_of_100_and_corrupts_80_10_10(tmp_path: Path) -> None:
    path = tmp_path / "letters.txt"
    path.write_text("".join(np.random.default_rng(0).choice(list("abcdefgh"), 100_000)), encoding="utf-8")
    spec = Corpus(path=str(path), length=64, masking=Masking(0.15, "~"))
    batches = spec.open().batches("train", 1000, 1, 0)
    batch = batches[0]
    picked = batch["weights"] > 0
    assert picked.mean() == pytest.approx(0.15, abs=0.005)
    np.testing.assert_array_equal(batch["tokens"][~picked], batch["labels"][~picked])
    tokens, labels = batch["tokens"][picked], batch["labels"][picked]
    assert (tokens == ord("~")).mean() == pytest.approx(0.8, abs=0.02)
    assert (tokens == labels).mean() == pytest.approx(0.1, abs=0.015)
    other = (tokens != ord("~")) & (tokens != labels)
    assert other.mean() == pytest.approx(0.1, abs=0.015)
    assert len(set(tokens[other].tolist())) > 200  # any of the 256 tokens
    again = spec.open().batches("train", 1000, 1, 0)[0]
    assert all((again[name] == batch[name]).all() for name in batch)
    fresh = spec.open().batches("train", 1000, 1, 1)[0]
    assert ((fresh["weights"] > 0) != picked).any()


def test_padding_is_never_masked(prose: str) -> None:
    batches = Corpus(path=prose, test=prose, length=32, masking=Masking(0.9, "~")).open().batches("train", 8, 1, 0)
    last = batches[len(batches) - 1]
    idle = last["segments"] == 0
    assert idle.any()
    assert not last["weights"][idle].any()


def test_what_is_masked_of_a_window_depends_on_no_other_and_on_no_batch(prose: str) -> None:
    opened = Corpus(path=prose, test=prose, length=32, masking=Masking(0.3, "~")).open()
    parts: tuple[tuple[PART, int | None], ...] = (("train", 3), ("test", None))
    for part, seed in parts:
        found = []
        for size, multiple in ((4, 1), (16, 1), (5, 8)):
            batches = opened.batches(part, size, multiple, seed)
            rows: list[bytes] = []
            for step in range(len(batches)):
                batch = batches[step]
                assert len(batch["tokens"]) == -(-size // multiple) * multiple
                for row in np.nonzero(batch["segments"].any(1))[0]:
                    rows.append(b"".join(batch[name][row].tobytes() for name in ("tokens", "labels", "weights")))
            found.append(rows)
        assert found[0] == found[1] == found[2]
        assert len(set(found[0])) == len(found[0])
    first, again = (
        opened.batches("train", 8, 1, 3)[step]["weights"] for step in (0, len(opened.batches("train", 8, 1, 3)))
    )
    assert (first != again).any()


def test_a_step_has_the_same_windows_on_one_device_and_on_eight(prose: str) -> None:
    opened = Corpus(path=prose, test=prose, length=32).open()
    alone, spread = (opened.batches("train", 12, multiple, 7) for multiple in (1, 8))
    assert len(alone) == len(spread)
    for step in range(2 * len(alone)):
        one, other = alone[step]["tokens"], spread[step]["tokens"]
        assert other.shape == (16, 32)
        np.testing.assert_array_equal(one, other[:12])
        assert not spread[step]["segments"][12:].any()
