"""Ten thousand malformed requests and a hundred slow clients, against a server in a process of its own."""

import asyncio
import json
import random
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.train.use.serving.conftest import LANGUAGE_MODEL
from tests.train.use.serving.live import start

pytestmark = pytest.mark.slow
TOKEN = "secret"
REQUESTS, AT_ONCE, SLOW_CLIENTS = 10_000, 100, 100
BODIES = [
    b'{"model": "run", "input": "a fine film"}',
    b'{"model": "run", "inputs": [{"name": "a.csv", "data": "dGV4dApmaWxtCg=="}]}',
    b'{"model": "writer", "prompt": "a", "max_tokens": 2, "temperature": 0, "stop": ["x"]}',
    b'{"model": "writer", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "stream": false}',
]
PATHS = ["/v1/predict", "/v1/predict", "/v1/completions", "/v1/chat/completions"]
VALUES = ["null", "-1", "1e400", "[]", "{}", '""', "true", r'"\u0000"', r'"\ud800"', "[[[[]]]]", "NaN", "9" * 5000]
LENGTHS = ["-1", "x", "1e3", "9" * 30, "0x10", "", "5, 6", "+4", "99999999", "\u0663"]
TOKENS = [
    "Bearer",
    "Bearer secre",
    "Basic secret",
    "Bearer secret secret",
    "secret",
    "Bearer \u00fc",
    "Bearer " + "x" * 9000,
]
HEADERS = [
    b"Host: evil\r\nHost: localhost",
    b"A\x00: b",
    b"no colon",
    b" folded: a",
    b": nameless",
    b"A: " + b"x" * 70_000,
]
ROUTES = [
    "/" + "a" * 9000,
    "//",
    "/../../etc/passwd",
    "/%00",
    "/%ff%fe",
    "/v1",
    "/v1/models/%2e%2e",
    "/v1/predict/",
    "*",
    "?",
]
VERBS = ["GET", "PUT", "DELETE", "PATCH", "TRACE", "post", "P\u00d6ST", "X" * 300, ""]


def write(
    body: bytes, path: str = "/v1/predict", verb: str = "POST", length: str | None = None, more: str = ""
) -> bytes:
    """Writes a request, right unless it is told otherwise."""
    size = str(len(body)) if length is None else length
    head = f"{verb} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n{more}"
    authorized = "" if "Authorization" in more else f"Authorization: Bearer {TOKEN}\r\n"
    return f"{head}{authorized}\r\n".encode() + body


def spoil(chance: random.Random, kind: str) -> bytes:
    """Writes a malformed request of a kind."""
    number = chance.randrange(len(BODIES))
    body, path = BODIES[number], PATHS[number]
    flipped = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        flipped[chance.randrange(len(flipped))] = chance.randrange(256)
    match kind:
        case "bytes of the body":
            return write(bytes(flipped), path)
        case "half a body":
            return write(body[: chance.randrange(1, len(body))], chance.choice([*PATHS, "/v1/explain"]))
        case "a value":
            field, value = chance.choice(re.findall(rb'"(\w+)": ', body)), chance.choice(VALUES).encode()
            pattern = rb'("%s": )("[^"]*"|\[[^]]*\]|[^,}\]]+)' % field
            return write(re.sub(pattern, lambda found: found[1] + value, body, count=1), path)
        case "another path's body":
            return write(body, chance.choice([other for other in PATHS if other != path]))
        case "no JSON":
            kinds = (
                "image/png",
                "text/csv",
                "video/mp4",
                "application/json",
                "multipart/form-data; boundary=x",
                "\u00fc",
            )
            return write(
                chance.randbytes(chance.randrange(300)), path, more=f"Content-Type: {chance.choice(kinds)}\r\n"
            )
        case "a length":
            return write(body, path, length=chance.choice(LENGTHS))
        case "a long body":
            return write(b"{" + b" " * 60_000, path)
        case "chunks":
            said = chance.choice(
                [b"zz\r\nabc", b"-1\r\n", b"ffffffffffffffffff\r\na", b"3\r\nabcdef", b"1;" + b"x" * 20_000]
            )
            return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + said
        case "a token":
            return write(body, path, more=f"Authorization: {chance.choice(TOKENS)}\r\n")
        case "a header":
            return write(body, path).replace(b"Host: localhost", chance.choice(HEADERS), 1)
        case "a path":
            return write(body, chance.choice(ROUTES))
        case "a verb":
            return write(body, path, verb=chance.choice(VERBS))
        case "a version":
            return write(body, path).replace(b"HTTP/1.1", chance.choice([b"HTTP/1.1.1", b"HTTP/", b"", b"SPDY"]), 1)
        case _:  # bytes of the head, or no HTTP at all
            raw = bytearray(
                chance.choice([write(body, path), chance.randbytes(400), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"])
            )
            for _ in range(chance.randint(0, 5)):
                raw[chance.randrange(min(len(raw), 90))] = chance.randrange(256)
            return bytes(raw)


KINDS = (
    "bytes of the body",
    "half a body",
    "a value",
    "another path's body",
    "no JSON",
    "a length",
    "a long body",
    "chunks",
    "a token",
    "a header",
    "a path",
    "a verb",
    "a version",
    "bytes",
)
MAY_BE_SOUND = ("bytes of the body", "a value", "bytes")  # a letter of a text, null for what may be left out


async def ask(port: int, raw: bytes) -> bytes:
    """Sends bytes; returns the answer's head, or what came before the connection was cut."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as cut:
        return cut.partial
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.fixture
def server(classifier: Path, writer: Path, cache: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, with small limits."""
    limits = ("--rows", "4", "--slots", "2", "--context", "40", "--slow", "1", "--limit-body", "0.05", "--token", TOKEN)
    process, address = start(cache, str(classifier), str(writer), "--config", LANGUAGE_MODEL, *limits)
    yield process, address
    process.kill()
    process.wait()


def test_ten_thousand_malformed_requests_are_refused_or_cut(server: tuple[subprocess.Popen[str], str]) -> None:
    process, address = server
    port, chance = int(address.rpartition(":")[2]), random.Random(0)
    requests = [(kind, spoil(chance, kind)) for kind in (chance.choice(KINDS) for _ in range(REQUESTS))]
    waiting = iter(requests)
    answers: list[tuple[str, bytes, bytes]] = []

    async def throw() -> None:
        for kind, raw in waiting:
            try:
                answers.append((kind, raw, await asyncio.wait_for(ask(port, raw), 300)))
            except TimeoutError:
                raise AssertionError(f"neither answered nor cut: {kind}, {raw[:300]!r}") from None

    async def throw_all() -> None:
        await asyncio.gather(*(throw() for _ in range(AT_ONCE)))

    assert process.stderr is not None
    said: list[str] = []
    reading = threading.Thread(target=said.extend, args=(process.stderr,))  # a full pipe would stop the server
    reading.start()
    client = httpx.Client(base_url=address, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60)
    sound = {"model": "run", "input": "a fine film"}, {"model": "writer", "prompt": "a", "max_tokens": 3, "seed": 1}
    before = client.post(PATHS[0], json=sound[0]).json(), client.post(PATHS[2], json=sound[1]).json()["choices"]
    asyncio.run(throw_all())
    assert len(answers) == REQUESTS
    statuses: dict[str, set[int]] = {kind: set() for kind in KINDS}
    for kind, raw, head in answers:
        status = int(head.split(b" ", 2)[1]) if head else 0  # cut
        statuses[kind].add(status)
        assert status == 0 or 400 <= status < 500 or (status == 200 and kind in MAY_BE_SOUND), (kind, raw[:300], head)
    assert {400, 401, 404, 405, 413} <= set.union(*statuses.values()), statuses
    assert process.poll() is None
    after = client.post(PATHS[0], json=sound[0]).json(), client.post(PATHS[2], json=sound[1]).json()["choices"]
    assert after == before
    assert not re.search(r'status="5', client.get("/metrics").text)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) in (0, -signal.SIGTERM)
    reading.join()
    raised = [line for line in said if line.startswith("Traceback")]
    refused = [line for line in said if line.startswith("h11._util.LocalProtocolError")]  # uvicorn has answered already
    assert len(raised) == len(refused), "".join(said)[-4000:]


def test_slow_clients_hold_up_nobody_and_are_cut(server: tuple[subprocess.Popen[str], str]) -> None:
    _, address = server
    port, raw = int(address.rpartition(":")[2]), write(json.dumps({"model": "run", "input": "a film " * 40}).encode())

    async def hold() -> list[bytes]:
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(SLOW_CLIENTS)]
        for index, (_, writer) in enumerate(slow):  # some stop in the head, others in the body
            writer.write(raw[: 1 + index * (len(raw) - 2) // SLOW_CLIENTS])
        for place in range(50):  # of these, some send on, a byte for every answer of the others
            assert (await ask(port, write(BODIES[0]))).startswith(b"HTTP/1.1 200 ")
            for _, writer in slow[: SLOW_CLIENTS // 4]:
                writer.write(raw[1 + place : 2 + place])
        return [await asyncio.wait_for(reader.read(), 300) for reader, _ in slow]

    answers = asyncio.run(hold())
    assert any(said.startswith(b"HTTP/1.1 408 ") for said in answers)
    for said in answers:
        assert said == b"" or re.match(rb"HTTP/1\.1 4\d\d ", said), said
    assert httpx.get(f"{address}/health").status_code == 200
