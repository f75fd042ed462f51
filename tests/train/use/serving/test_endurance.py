"""Servers under load: no request is lost by an end or a new checkpoint, and nothing malformed or slow stops one."""

import dataclasses
import json
import shutil
import signal
import socket
import threading
from collections.abc import Mapping
from pathlib import Path

import httpx
import jax
import pytest

from tests.train.use.serving.live import SMALL, Live, serve, start, until
from train.cli import main
from train.engine.folder import open_run
from train.use.evaluate import predict
from train.use.serving.generation import Generator

pytestmark = pytest.mark.slow
QUESTION = {"model": "run", "input": "a fine film"}
CLIENTS = 6


class Load:
    """Clients that ask again and again, each with connections of its own, until told to stop or turned away."""

    def __init__(self, address: str, body: Mapping[str, object], path: str = "/v1/predict") -> None:
        self.answers: list[httpx.Response] = []
        self.failures: list[Exception] = []
        self.stopped = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=address, timeout=120) as client:
                while not self.stopped.is_set():
                    try:
                        answer = client.post(path, json=body)
                    except httpx.ConnectError:  # it listens no more
                        return
                    except Exception as error:
                        self.failures.append(error)
                        return
                    self.answers.append(answer)
                    if answer.status_code == 503:
                        return

        self.threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def join(self) -> None:
        """Ends."""
        self.stopped.set()
        for thread in self.threads:
            thread.join()


def test_sigterm_loses_no_request(classifier: Path, cache: Path) -> None:
    process, address = start(cache, str(classifier), "--rows", "4")
    assert process.stderr is not None
    load = Load(address, QUESTION)
    until(lambda: len(load.answers) > 50)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) in (0, -signal.SIGTERM)
    load.join()
    assert load.failures == []
    assert {answer.status_code for answer in load.answers} <= {200, 503}
    assert process.stderr.read() == ""


def test_a_new_checkpoint_answers_and_no_request_is_lost(
    sound: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))
    folder = tmp_path / "folder"
    shutil.copytree(sound, folder)
    monkeypatch.chdir(folder)
    run = folder / "run"
    first = ask_command(run)
    with serve(run) as live:
        load = Load(live.address, QUESTION)
        until(lambda: len(load.answers) > 20)
        assert main(["train", "config.py", "steps=30", "--run", "run"]) == 0
        until(lambda: live.state.runs["run"].step == 30)
        count = len(load.answers)
        until(lambda: len(load.answers) > count + 20)
        load.join()
        assert live.metric("morphax_reloads_total") >= 1
    assert load.failures == []
    assert {answer.status_code for answer in load.answers} == {200}
    good = [answer.json()["answers"][0]["probabilities"]["good"] for answer in load.answers]
    last = ask_command(run)
    assert abs(first - last) > 1e-4
    assert good[0] == pytest.approx(first, abs=1e-5)
    assert good[-1] == pytest.approx(last, abs=1e-5)


def ask_command(run: Path) -> float:
    """The probability that the command gives."""
    ((_, answer),) = predict(run, open_run(run), [QUESTION["input"]])
    probabilities = answer["probabilities"]
    assert isinstance(probabilities, dict)
    return probabilities["good"]


def test_a_text_under_way_ends_with_the_parameters_that_it_began_with(live: Live) -> None:
    served = live.state.runs["writer"]
    assert isinstance(served.generator, Generator)
    client = live.openai().completions
    before = client.create(model="writer", prompt="a fi", max_tokens=30, temperature=0).choices[0].text
    old = served.drawing
    stream = iter(client.create(model="writer", prompt="a fi", max_tokens=30, temperature=0, stream=True))
    text = next(stream).choices[0].text
    served.drawing = jax.tree.map(lambda leaf: -leaf, old)
    text += "".join(chunk.choices[0].text for chunk in stream)
    assert text == before
    assert client.create(model="writer", prompt="a fi", max_tokens=30, temperature=0).choices[0].text != before
    served.drawing = old
    assert client.create(model="writer", prompt="a fi", max_tokens=30, temperature=0).choices[0].text == before


def test_clients_who_read_nothing_are_cut(classifier: Path) -> None:
    limits = dataclasses.replace(SMALL, slow=1.0, body=2**24)
    with serve(classifier, limits=limits) as live:
        body = json.dumps({"inputs": ["a fine film", *["a fine film " * 80_000] * 12]}).encode()
        head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        port = int(live.address.rpartition(":")[2])
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        raw.connect(("127.0.0.1", port))
        raw.sendall(head + body)
        until(lambda: live.metric("morphax_requests_total") >= 1)
        until(lambda: len(live.server.server_state.connections) <= 1)
        raw.close()
        assert live.client().post("/v1/predict", json={"input": "a fine film"}).status_code == 200


def test_a_client_who_leaves_frees_its_slot(live: Live) -> None:
    served = live.state.runs["writer"]
    assert served.generator is not None
    held = served.generator.held
    client = live.openai().completions
    for _ in range(6):  # of two slots
        stream = client.create(model="writer", prompt="a", max_tokens=39, stream=True)
        next(iter(stream))
        stream.close()
    assert client.create(model="writer", prompt="a", max_tokens=3).choices[0].finish_reason == "length"
    until(lambda: not any(held) and not any(served.generator.held if served.generator else ()))


def test_a_missing_library_and_a_taken_port_are_told_in_a_sentence(
    classifier: Path, capsys: pytest.CaptureFixture[str], live: Live
) -> None:
    port = live.address.rpartition(":")[2]
    for words, said in (
        (["--port", port], f"127.0.0.1:{port} cannot be served at: Address already in use; give another"),
        (["--queue", "0"], "--queue is 0; give a number above 0."),
        (["--token", ""], "A --token is empty or not ASCII"),
    ):
        assert main(["serve", str(classifier), *words]) == 2
        assert said in capsys.readouterr().err
