"""Refusals of a server: late, too much, without a token, malformed, on its way out."""

import dataclasses
import socket
from pathlib import Path

import httpx
import openai
import pytest

from tests.places import CONFIGS
from tests.train.use.serving.live import SMALL, Live, begin, serve, until

PREDICT, COMPLETE, CHAT = "/v1/predict", "/v1/completions", "/v1/chat/completions"
REFUSED = {  # method, path, body, status, what the sentence has
    "no path": ("GET", "/nowhere", b"", 404, "Not Found."),
    "no method": ("GET", PREDICT, b"", 405, "Method Not Allowed."),
    "no JSON": ("POST", PREDICT, b"{", 400, "The body is not JSON: "),
    "deep JSON": ("POST", PREDICT, b"[" * 100_000, 400, "The body is not JSON: "),
    "no object": ("POST", PREDICT, b"[]", 400, "The body is a list; give an object."),
    "no UTF-8": ("POST", PREDICT, b'{"input": "\xff"}', 400, "The body is not JSON: "),
    "half a character": ("POST", PREDICT, b'{"model": "run", "input": "\\ud800"}', 400, "half a surrogate pair"),
    "no run": ("POST", PREDICT, b'{"model": "x", "input": "a"}', 404, "There is no run 'x'; there is run"),
    "no name": ("POST", PREDICT, b'{"input": "a"}', 400, "Name the run by model; there are run, writer."),
    "no input": ("POST", PREDICT, b'{"model": "run"}', 400, "Give input, or the list inputs."),
    "a number": ("POST", PREDICT, b'{"model": "run", "input": 3}', 400, "Input 1 is neither a text nor"),
    "no base64": ("POST", PREDICT, b'{"model": "run", "input": {"name": "a.csv", "data": "%"}}', 400, "not base64"),
    "an unknown field": ("POST", PREDICT, b'{"model": "run", "inptu": 3}', 400, "'inptu' is no field"),
    "too many": ("POST", PREDICT, b'{"model": "run", "inputs": [' + b'"a",' * 300 + b'"a"]}', 400, "256"),
    "no text at all": ("POST", PREDICT, b'{"model": "run", "input": " "}', 400, "has no text"),
    "no generator": ("POST", COMPLETE, b'{"model": "run", "prompt": "a"}', 400, "generates no text"),
    "too long": ("POST", COMPLETE, b'{"model": "writer", "prompt": "' + b"a" * 40 + b'"}', 400, "have up to 40"),
    "no prompt": ("POST", COMPLETE, b'{"model": "writer", "prompt": ""}', 400, "The prompt has no tokens"),
    "two choices": ("POST", COMPLETE, b'{"model": "writer", "prompt": "a", "n": 2}', 400, "takes 1 alone"),
    "cold": ("POST", COMPLETE, b'{"model": "writer", "prompt": "a", "temperature": -1}', 400, "temperature"),
    "not finite": ("POST", COMPLETE, b'{"model": "writer", "prompt": "a", "top_p": NaN}', 400, "finite"),
    "no role": ("POST", CHAT, b'{"model": "writer", "messages": [{"content": ""}]}', 400, "role"),
}


def ask(live: Live, *texts: str) -> httpx.Response:
    return live.client().post(PREDICT, json={"inputs": texts or ["a fine film"]})


@pytest.mark.represented_by(*REFUSED)
@pytest.mark.parametrize("name", REFUSED)
def test_malformed_requests_are_refused_in_a_sentence(live: Live, name: str) -> None:
    method, path, body, status, sentence = REFUSED[name]
    answer = live.client().request(method, path, content=body)
    error = answer.json()["error"]
    assert (answer.status_code, sentence in error["message"]) == (status, True), answer.text
    assert set(error) == {"message", "type", "param", "code"}


def test_errors_are_raised_by_the_client_of_openai(live: Live) -> None:
    client = live.openai()
    with pytest.raises(openai.NotFoundError, match="There is no run 'gpt'"):
        client.completions.create(model="gpt", prompt="a")
    with pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(model="writer", prompt="a" * 39, max_tokens=2)
    assert (raised.value.code, raised.value.param) == ("context_length_exceeded", "max_tokens")
    assert [model.id for model in client.models.list()] == ["run", "writer"]
    assert client.models.retrieve("writer").id == "writer"


def test_nothing_is_compiled_once_a_server_is_ready(live: Live, compilations: list[str]) -> None:
    client = live.client()
    before = live.metric("morphax_compilations_total")
    compilations.clear()
    for count in range(1, 7):
        inputs = ["a film" * number for number in range(1, count + 1)]
        assert client.post(PREDICT, json={"model": "run", "inputs": inputs}).status_code == 200
        wanted = {"model": "writer", "prompt": "a" * 5 * count, "max_tokens": count, "temperature": 0.5 * (count % 2)}
        assert client.post(COMPLETE, json=wanted | {"top_p": 0.5 + 0.1 * (count % 3)}).status_code == 200
    assert client.post(PREDICT, json={"model": "writer", "input": "a film"}).status_code == 200
    assert compilations == []
    assert live.metric("morphax_compilations_total") == before > 0


@pytest.mark.slow
def test_a_long_prompt_is_compiled_before_it_comes_first(writer: Path, compilations: list[str]) -> None:
    with serve(writer, config=str(CONFIGS / "language_model.py")) as live:
        compilations.clear()
        wanted = {"prompt": "a" * 30, "max_tokens": 2}
        assert live.client().post(COMPLETE, json=wanted).status_code == 200
        assert compilations == []


def test_a_full_queue_refuses_and_what_was_taken_is_answered(classifier: Path) -> None:
    with serve(classifier, limits=dataclasses.replace(SMALL, queue=2), idle=True) as live:
        queue = live.state.runs["run"].questions
        first = begin(lambda: ask(live, "a fine film", "a dull film"))
        until(lambda: len(queue) == 2)
        refused = ask(live)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        live.start()
        assert first.result().status_code == 200


def test_a_late_answer_is_given_up_and_a_client_who_leaves_is_forgotten(classifier: Path) -> None:
    with serve(classifier, limits=dataclasses.replace(SMALL, deadline=0.5), idle=True) as live:
        queue = live.state.runs["run"].questions
        late = ask(live)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert not any(job.wanted for job in queue.jobs)
    with serve(classifier, idle=True) as live:
        queue = live.state.runs["run"].questions
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{live.address}{PREDICT}", json={"input": "a"}, timeout=httpx.Timeout(60, read=0.2))
        until(lambda: len(queue) > 0 and not any(job.wanted for job in queue.jobs))


def test_a_body_of_too_many_bytes_and_one_that_stalls_are_refused(classifier: Path) -> None:
    with serve(classifier, limits=dataclasses.replace(SMALL, body=1000, slow=0.5), idle=True) as live:
        for size in (1001, 9000):
            answer = live.client().post(PREDICT, content=b" " * size)
            assert (answer.status_code, "more than 1000 bytes" in answer.text) == (413, True)
        assert live.client().post(PREDICT, content=iter([b" " * 600] * 2)).status_code == 413
        for head, said in (
            (b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{", b"HTTP/1.1 408 "),
            (b"POST /v1/predict HT", b""),
            (b"", b""),
        ):
            with socket.create_connection(("127.0.0.1", int(live.address.rpartition(":")[2])), timeout=60) as raw:
                raw.sendall(head)
                assert read_until_cut(raw).startswith(said)


def read_until_cut(raw: socket.socket) -> bytes:
    """All that a server sends until it cuts the connection."""
    data = b""
    try:
        while part := raw.recv(4096):
            data += part
    except ConnectionResetError:
        return data
    return data


def test_a_token_is_asked_for_and_pages_of_others_get_nothing(classifier: Path) -> None:
    with serve(classifier, tokens=["secret", "other"], origins=["https://a.example"], idle=True) as live:
        for token, status in (("", 401), ("secre", 401), ("secret", 200), ("other", 200)):
            assert live.client(token).get("/v1/models").status_code == status
        assert live.client().get("/metrics").status_code == 401
        assert [live.client().get(path).status_code for path in ("/", "/health", "/ready")] == [200] * 3
        for origin, allowed in (("https://a.example", "https://a.example"), ("https://b.example", None)):
            headers = {"origin": origin, "access-control-request-method": "POST"}
            answer = live.client().options(PREDICT, headers=headers)
            assert answer.headers.get("access-control-allow-origin") == allowed
        assert live.client().options(PREDICT).status_code == 405


def test_without_a_token_only_names_of_this_machine_are_answered(live: Live) -> None:
    answer = live.client().get("/v1/models", headers={"host": "evil.example"})
    assert (answer.status_code, "evil.example" in answer.text) == (421, True)
    assert "access-control-allow-origin" not in live.client().get("/health", headers={"origin": "https://a"}).headers


def test_what_is_under_way_at_the_end_is_answered_and_the_rest_refused(classifier: Path) -> None:
    with serve(classifier, idle=True) as live:
        queue = live.state.runs["run"].questions
        client = live.client()
        assert client.get("/ready").json() == {"ready": True}
        under_way = begin(lambda: ask(live))
        until(lambda: len(queue) == 1)
        live.server.should_exit = True
        until(lambda: live.state.ending)
        refused = client.get("/v1/models")
        assert (refused.status_code, refused.headers["connection"]) == (503, "close")
        live.start()
        assert under_way.result().json()["answers"][0]["input"] == "a fine film"
        live.thread.join()
        with pytest.raises(httpx.ConnectError):
            client.get("/health")
