"""Requests a second, and their seconds, of a served run beside the naive loop that answers one after the other.

    python -m tests.benchmarks.serving runs/sentiment_bert [--requests 512] [--soak 100000] [--json FILE]

The server is `morphax serve` in a process of its own.  1, 8 and 64 clients ask it over connections that stay open, each
its next question once it has the answer; a run that generates continues prompts by 32 tokens, any other answers texts.
The naive loop is the same model and the same compiled program in this process, one question a batch and no HTTP, or
`generate`, one text after the other.  Goal: 64 clients get 3 times its answers a second.  `--soak` asks as often as
that by 64 clients and reads the server's memory on the way: from the first tenth on it may grow by a twentieth.  Ends
with 1 where a goal does not hold.
"""

import asyncio
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from models.decoding.sampling import generate
from models.decoding.slots import cut_prompt
from tests.benchmarks.measure import begin, finish, note, parser, report
from train.contracts import Tokenised
from train.engine.folder import open_run
from train.engine.prepared import prepare_inference
from train.precision import cast
from train.use.evaluate import format_output, restore_params
from train.use.serving.batching import pull

CLIENTS, PROMPT, TOKENS, FASTER, GROWTH = (1, 8, 64), 64, 32, 3.0, 1.05
JSON = "Content-Type: application/json\r\n"
WORDS = ("a", "film", "that", "is", "told", "with", "care", "and", "seldom", "dull", "though", "long", "in", "half")


def text(number: int) -> str:
    """A text of 2 to 6 words that no other has, of 48 characters at most."""
    return f"{number} {' '.join(WORDS[(number + place) % len(WORDS)] for place in range(2 + number % 5))}"


class Served:
    """A server in a process of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        command = [sys.executable, "-m", "train", "serve", str(folder), "--port", "0", "--json", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        said = json.loads(self.process.stdout.readline())
        self.port = int(said["address"].rpartition(":")[2])
        (self.about,) = said["runs"].values()
        assert "ready\n" in iter(self.process.stderr.readline, "")

    @property
    def memory(self) -> int:
        """Resident KiB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])

    def stop(self) -> None:
        """Ends it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


async def ask(port: int, path: str, bodies: list[bytes], clients: int, progress: Callable[[int], None]) -> list[float]:
    """Seconds of every request, by clients that take the next body once they have an answer."""
    waiting, seconds = iter(bodies), list[float]()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for body in waiting:
            began = time.perf_counter()
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{JSON}Content-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            said = await reader.readexactly(int(length.partition(b":")[2]))
            assert answer.startswith(b"HTTP/1.1 200"), said
            seconds.append(time.perf_counter() - began)
            progress(len(seconds))
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return seconds


def bodies(served: Served, count: int, start: int = 0) -> tuple[str, list[bytes]]:
    """The path, and bodies of as many requests."""
    texts = [text(start + number) for number in range(count)]
    if served.about["generates"]:
        wanted = [{"prompt": each, "max_tokens": TOKENS, "temperature": 0} for each in texts]
        return "/v1/completions", [json.dumps(each).encode() for each in wanted]
    return "/v1/predict", [json.dumps({"input": each}).encode() for each in texts]


def naive(folder: Path, config: str | None, generates: bool) -> Callable[[str], Any]:
    """A function that answers one text, compiled for it."""
    run = open_run(folder, config)
    experiment, data = run.experiment, run.experiment.data.reader(run.classes)
    first = data.questions([text(0)[:16]], 1, 1)[0]
    inference = prepare_inference(experiment, data, first)
    params = restore_params(folder, inference, False)[1]
    if generates:
        assert isinstance(data, Tokenised)
        tokens = data.tokens
        params = cast(params, experiment.precision)

        def write(prompt: str) -> str:
            batch = jax.tree.map(jnp.asarray, cut_prompt(tokens.encode([prompt])[0].tolist(), (PROMPT,))[0])
            ids = [int(token[0]) for token in generate(experiment.model, params, batch, TOKENS)]
            return tokens.decode(ids)

        return write

    def answer(question: str) -> Any:
        batch = data.questions([question], 1, 1)[0]
        outputs = pull(inference.outputs(params, inference.parallel.put(batch)))
        return format_output(experiment.objective, data, outputs, batch, 0)

    return answer


def measure_naive(answer: Callable[[str], Any], count: int) -> list[float]:
    """Seconds of every text."""
    seconds: list[float] = []
    for number in range(-16, count):
        began = time.perf_counter()
        answer(text(abs(number)))
        if number >= 0:
            seconds.append(time.perf_counter() - began)
    return seconds


def summarise(seconds: list[float], spent: float) -> dict[str, float]:
    """Requests a second, and milliseconds of the median request and of one of a hundred."""
    ordered = sorted(seconds)
    return {
        "a second": len(seconds) / spent,
        "p50 ms": 1000 * statistics.median(ordered),
        "p99 ms": 1000 * ordered[min(int(0.99 * len(ordered)), len(ordered) - 1)],
    }


def soak(served: Served, count: int) -> tuple[list[int], float]:
    """The server's memory in KiB at each tenth of so many requests, and requests a second."""
    memory: list[int] = []

    def look(done: int) -> None:
        if done % max(count // 10, 1) == 0:
            memory.append(served.memory)
            note(f"{done:,} requests: {memory[-1] / 1024:,.0f} MiB")

    path, every = bodies(served, count)
    began = time.perf_counter()
    asyncio.run(ask(served.port, path, every, 64, look))
    return memory, count / (time.perf_counter() - began)


def main() -> None:
    """Measures and prints the table."""
    options = parser(__doc__)
    options.add_argument("run", type=Path, help="folder of a run on texts")
    options.add_argument("--config", help="the config file that defines the run's own components")
    options.add_argument("--requests", type=int, default=512, help="requests for each number of clients")
    options.add_argument("--soak", type=int, default=0, help="requests of a long test of memory")
    given = options.parse_args()
    begin()
    words = ["--config", given.config] if given.config else []
    context = ["--context", "192"]
    served = Served(given.run, *words, *context)
    figures: dict[str, Any] = {}
    failures: list[str] = []
    try:
        answer = naive(given.run, given.config, served.about["generates"])
        count = given.requests if not served.about["generates"] else max(given.requests // 8, 64)
        alone = measure_naive(answer, min(count, 256))
        figures["naive loop"] = summarise(alone, sum(alone))
        for clients in CLIENTS:
            path, every = bodies(served, count)
            began = time.perf_counter()
            seconds = asyncio.run(ask(served.port, path, every, clients, lambda done: None))
            figures[f"{clients} clients"] = summarise(seconds, time.perf_counter() - began)
            note(f"{clients} clients: {figures[f'{clients} clients']}")
        faster = figures["64 clients"]["a second"] / figures["naive loop"]["a second"]
        if faster < FASTER:
            failures.append(f"64 clients get {faster:.2f} times the answers of the naive loop, {FASTER:g} are the goal")
        if given.soak:
            memory, pace = soak(served, given.soak)
            figures["soak"] = {"KiB": memory, "a second": pace}
            if memory[-1] > GROWTH * memory[0]:
                failures.append(f"memory grows from {memory[0]} to {memory[-1]} KiB")
    finally:
        served.stop()
    rows = [(name, *(f"{value:,.1f}" for value in each.values())) for name, each in figures.items() if name != "soak"]
    report(("", "requests a second", "p50 ms", "p99 ms"), rows, f"{given.run}: served, and one after the other")
    finish(figures, given.json, failures)


if __name__ == "__main__":
    main()
