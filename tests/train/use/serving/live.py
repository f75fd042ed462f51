"""A server on a free port of this machine, in a thread of the test."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import httpx
import openai

from train.engine.folder import open_run
from train.use.serving.app import State
from train.use.serving.metrics import Metrics
from train.use.serving.served import Limits, Served
from train.use.serving.server import Server, bind, make_server, warm

SMALL = Limits(rows=4, slots=2, context=40, deadline=60.0)


@dataclasses.dataclass
class Live:
    """A server, its state and its address; `start` starts its engines, if they were left out."""

    server: Server
    state: State
    address: str
    thread: threading.Thread

    def client(self, token: str = "") -> httpx.Client:
        """A client with a token."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.address, headers=headers, timeout=120)

    def openai(self) -> openai.OpenAI:
        """OpenAI's client, without repeats."""
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key="any", max_retries=0)

    def start(self) -> None:
        """Starts the engines."""
        for run in self.state.runs.values():
            run.start()

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        lines = self.client().get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


@contextlib.contextmanager
def serve(
    *folders: Path,
    limits: Limits = SMALL,
    tokens: Sequence[str] = (),
    origins: Sequence[str] = (),
    config: str | None = None,
    idle: bool = False,
) -> Iterator[Live]:
    """Serves runs; with `idle` nothing is compiled or answered before `start`."""
    socket = bind("127.0.0.1", 0)
    metrics = Metrics()
    runs = [Served(folder, open_run(folder, config), limits, metrics, False) for folder in folders]
    state = State(runs, limits, metrics)
    server = make_server(state, tokens, origins, ("127.0.0.1", "localhost"))
    address = f"http://127.0.0.1:{socket.getsockname()[1]}"
    failures: list[Exception] = []
    if idle:
        state.ready = True
    else:
        warm(state, server, failures).join()
        assert not failures
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    try:
        yield Live(server, state, address, thread)
    finally:
        server.should_exit = True
        for run in runs:
            run.stop()
        thread.join()


def start(cache: Path, *words: str) -> tuple[subprocess.Popen[str], str]:
    """Starts `morphax serve` in a process of its own; returns it and its address once everything is compiled."""
    command = [sys.executable, "-m", "train", "serve", *words, "--port", "0", "--json"]
    environment = os.environ | {"MORPHAX_CACHE": str(cache)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stderr is not None
    address = json.loads(process.stdout.readline())["address"]
    assert "ready\n" in iter(process.stderr.readline, "")
    return process, address


def begin(ask: Callable[[], httpx.Response]) -> Future[httpx.Response]:
    """Asks in a thread."""
    future: Future[httpx.Response] = Future()

    def run() -> None:
        try:
            future.set_result(ask())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def until(condition: Callable[[], bool]) -> None:
    """Waits until a condition holds."""
    waited = threading.Event()
    for _ in range(1200):
        if condition():
            return
        waited.wait(0.05)
    raise AssertionError("it never held")
