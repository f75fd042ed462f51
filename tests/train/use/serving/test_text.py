"""Pieces of a text: stops that come in parts, and characters of several bytes."""

import asyncio
import time

import pytest

from train.data.tokens import make_tokenizer
from train.use.serving.generation import Generation, read_pieces

CASES = {
    "no stop": ("a fine film", (), "a fine film", "length"),
    "a stop": ("a fine film", ("ne",), "a fi", "stop"),
    "the first of two": ("a fine film", ("film", "in"), "a f", "stop"),
    "the beginning of a stop": ("a fine fi", ("film",), "a fine fi", "length"),
    "characters of bytes": ("größer 数字", (), "größer 数字", "length"),
    "a character of bytes at the end": ("grö", ("x",), "grö", "length"),
}


@pytest.mark.represented_by(*CASES)
@pytest.mark.parametrize("name", CASES)
def test_pieces_make_the_text_and_hold_nothing_of_a_stop(name: str) -> None:
    text, stops, expected, reason = CASES[name]
    data = text.encode()

    async def read() -> list[tuple[str, str | None]]:
        future = asyncio.get_running_loop().create_future()
        job = Generation(time.monotonic() + 60, future, most=len(data))
        for job.count, byte in enumerate(data, 1):
            job.tokens.put_nowait(byte)
        job.tokens.put_nowait(None)
        return [(piece.text, piece.reason) async for piece in read_pieces(job, make_tokenizer("bytes"), stops)]

    pieces = asyncio.run(read())
    assert "".join(text for text, _ in pieces) == expected
    assert [reason for _, reason in pieces if reason] == [reason]
    assert all("\ufffd" not in text for text, _ in pieces)
