"""Answers of a server, beside those of the commands."""

import asyncio
import base64
import io
from pathlib import Path

import openai
import pytest
from PIL import Image

from models.decoding.sampling import Sampler
from tests.train.use.serving.conftest import LANGUAGE_MODEL
from tests.train.use.serving.live import Live
from train.data.tasks.images import Images
from train.engine.folder import open_run
from train.errors import InputError
from train.use.evaluate import generate, predict
from train.use.serving.inputs import Posted, Reader

GREEDY = Sampler()
PROMPTS = ["a fi", "a lovely film, number", "a dull film, num", "nine", "a"]
TEXTS = ["a fine film", "", "dull", "a film " * 6, "of all the films the dullest"]


def say(run: Path, prompts: list[str], count: int, sampler: Sampler = GREEDY, seed: int = 0) -> list[str]:
    """Runs `morphax generate`; returns the texts that it prints."""
    *_, texts = generate(run, open_run(run, LANGUAGE_MODEL), prompts, count, sampler, seed)
    return texts


@pytest.fixture(scope="session")
def likeliest(writer: Path) -> dict[str, str]:
    """The likeliest continuations of PROMPTS, of 16 tokens, which are characters."""
    texts = say(writer, PROMPTS, 16)
    assert all(len(text) == 16 and text.isascii() for text in texts)
    return dict(zip(PROMPTS, texts, strict=True))


def test_answers_are_those_of_predict(live: Live, classifier: Path) -> None:
    expected = list(predict(classifier, open_run(classifier), TEXTS))
    answered = live.client().post("/v1/predict", json={"model": "run", "inputs": TEXTS}).json()["answers"]
    assert [answer.pop("input") for answer in answered] == [text for text, _ in expected]
    for given, (_, wanted) in zip(answered, expected, strict=True):
        assert given.get("label") == wanted.get("label")
        assert given.get("probabilities") == pytest.approx(wanted.get("probabilities"), abs=1e-5)
        assert ("unanswered" in given) == ("unanswered" in wanted)


def test_a_text_is_never_taken_for_a_path(live: Live, classifier: Path) -> None:
    table = classifier.parent / "test.csv"
    posted = {"name": "../../../x.csv", "data": base64.b64encode(table.read_bytes()).decode()}
    client = live.client()
    (answer,) = client.post("/v1/predict", json={"model": "run", "input": str(table)[-40:]}).json()["answers"]
    assert answer["input"] == str(table)[-40:]
    rows = client.post("/v1/predict", json={"model": "run", "input": posted}).json()["answers"]
    assert [row["input"] for row in rows] == ["a fine film", "a dull film"]
    raw, kind = table.read_bytes(), {"content-type": "text/csv"}
    assert client.post("/v1/predict?model=run", content=raw, headers=kind).json()["answers"] == rows
    curled = {"content-type": "application/x-www-form-urlencoded"}  # as curl -d says
    body = b'{"model": "run", "input": "a fine film"}'
    assert client.post("/v1/predict", content=body, headers=curled).json()["answers"][0]["label"] == rows[0]["label"]
    refused = client.post("/v1/predict", json={"model": "run", "input": {**posted, "name": "x.exe"}})
    assert (refused.status_code, "x.exe is none of " in refused.text) == (400, True)


def test_a_text_of_the_name_of_a_file_is_a_question(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(classifier.parent)
    reader = Reader(open_run(classifier).experiment.data.reader(("bad", "good")), 4)
    asked, _ = reader.read(["test.csv", "."])
    assert [one.text for one in asked] == ["test.csv", "."]


def test_a_text_is_read_at_once_unless_another_is_being_read(classifier: Path) -> None:
    reader = Reader(open_run(classifier).experiment.data.reader(("bad", "good")), 4)
    with reader.reading:
        assert reader.read_at_once(["a fine film"]) is None
    read = reader.read_at_once(["a fine film"])
    assert read is not None
    assert [one.text for one in read[0]] == ["a fine film"]
    with pytest.raises(InputError, match="There is nothing to predict from"):
        reader.read_at_once([])
    assert reader.read_at_once(["dull"]) is not None  # an error leaves nothing held


def test_a_run_of_files_reads_bytes_and_no_path(tmp_path: Path) -> None:
    reader = Reader(Images(path="pictures", size=(8, 8)).reader(("a", "b")), 4)
    secret, data = tmp_path / "secret.png", io.BytesIO()
    Image.new("L", (9, 9)).save(data, "png")
    secret.write_bytes(data.getvalue())
    with pytest.raises(InputError, match="Input 1 is a text, and this run reads files"):
        reader.read([str(secret)])
    (asked,), _ = reader.read([Posted(str(secret), data.getvalue())])
    assert asked.arrays is not None
    assert (asked.text, asked.arrays["image"].shape) == ("secret.png", (1, 8, 8, 1))
    (asked,), _ = reader.read([Posted(str(secret), b"no picture")])
    assert asked.reason == (
        "secret.png cannot be read as a picture: it is no picture; give a file such as a PNG or a JPEG."
    )


def test_texts_are_those_of_generate(live: Live, likeliest: dict[str, str]) -> None:
    client = live.openai().completions
    given = client.create(model="writer", prompt=PROMPTS[:2], max_tokens=12, temperature=0)
    assert [choice.text for choice in given.choices] == [likeliest[prompt][:12] for prompt in PROMPTS[:2]]
    assert [choice.finish_reason for choice in given.choices] == ["length"] * 2
    assert given.usage is not None
    assert (given.usage.prompt_tokens, given.usage.completion_tokens) == (4 + 21, 24)
    expected = likeliest["a fi"]
    stop = expected[4:6]
    (stopped,) = client.create(
        model="writer", prompt="a fi", max_tokens=12, temperature=0, stop=[stop, "never"]
    ).choices
    assert (stopped.text, stopped.finish_reason) == (expected[: expected.index(stop)], "stop")
    *pieces, last = client.create(
        model="writer",
        prompt="a fi",
        max_tokens=16,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    assert "".join(piece.choices[0].text for piece in pieces) == expected
    assert len(pieces) > 8
    assert pieces[-1].choices[0].finish_reason == "length"
    assert last.usage is not None
    assert (last.usage.completion_tokens, last.choices) == (16, [])


@pytest.mark.slow
def test_a_seed_draws_what_generate_draws(live: Live, writer: Path) -> None:
    (expected,) = say(writer, ["a fi"], 12, Sampler(0.8, top_k=20, top_p=0.9), 5)
    given = live.openai().completions.create(
        model="writer", prompt="a fi", max_tokens=12, temperature=0.8, top_p=0.9, seed=5, extra_body={"top_k": 20}
    )
    assert given.choices[0].text == expected


@pytest.mark.slow
def test_a_chat_is_a_text_of_turns(live: Live, writer: Path) -> None:
    (expected,) = say(writer, ["user: hi\nassistant:"], 8)
    client = live.openai().chat.completions
    said = client.create(
        model="writer", messages=[{"role": "user", "content": "hi"}], max_completion_tokens=8, temperature=0
    )
    assert said.choices[0].message.content == expected
    chunks = list(
        client.create(
            model="writer",
            messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
            max_tokens=8,
            temperature=0,
            stream=True,
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == "length"


def test_clients_side_by_side_get_what_each_would_get_alone(live: Live, likeliest: dict[str, str]) -> None:
    async def ask() -> list[str]:
        client = openai.AsyncOpenAI(base_url=f"{live.address}/v1", api_key="any", max_retries=0)
        waiting = [
            client.completions.create(model="writer", prompt=prompt, max_tokens=4 + 3 * index, temperature=0)
            for index, prompt in enumerate(PROMPTS)
        ]
        return [given.choices[0].text for given in await asyncio.gather(*waiting)]

    assert asyncio.run(ask()) == [likeliest[prompt][: 4 + 3 * index] for index, prompt in enumerate(PROMPTS)]


@pytest.mark.slow
def test_an_answer_is_explained(live: Live) -> None:
    client = live.client()
    said = client.post("/v1/explain", json={"model": "run", "input": "a fine film"}).json()
    assert said["answer"]["label"] in ("good", "bad")
    assert said["tokens"]
    page = client.post("/v1/explain", json={"model": "run", "input": "a fine film", "page": True})
    assert "<h2>What it read</h2>" in page.text
    assert "review " not in page.text  # no training example
