"""Bodies of requests, within limits of bytes and seconds, and errors in OpenAI's form."""

import asyncio
import base64
import binascii
import json
import math
import mimetypes
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from train.use.serving.batching import Job
from train.use.serving.inputs import Posted

Result = TypeVar("Result")
Body = Mapping[str, object]
DISCARDED = 8  # times the limit of a body that is read and thrown away, so that the client sees the answer
TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An error to answer with: the status, one sentence, and the parameter and the code of OpenAI's form."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})

    @property
    def content(self) -> dict[str, object]:
        """OpenAI's form."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def respond(self) -> JSONResponse:
        """The response."""
        return JSONResponse(self.content, self.status, self.headers)


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """Reads a body.  Raises ApiError 413 for more than `most` bytes and 408 after `seconds`."""
    close = {"connection": "close"}
    too_large = ApiError(413, f"The body has more than {most} bytes, the most that this server takes.", headers=close)
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > DISCARDED * most:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > DISCARDED * most:
                    raise too_large
                if size <= most:
                    parts.append(part)
    except TimeoutError:
        raise ApiError(408, f"The body did not come within {seconds:g} s.", headers=close) from None
    if size > most:
        raise too_large
    return b"".join(parts)


def parse_object(body: bytes) -> dict[str, object]:
    """Parses a JSON object.  Raises ApiError for anything else, and for half a surrogate pair anywhere in it."""
    try:
        value = json.loads(body)
        if b"\\u" in body:  # an escape that may be half a surrogate pair
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ApiError(400, "The body has half a surrogate pair, which is no character; remove it.") from None
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The body is not JSON: {str(error)[:200] or type(error).__name__}.") from None
    if not isinstance(value, dict):
        raise ApiError(400, f"The body is a {type(value).__name__}; give an object.")
    return value


def require_known(body: Body, known: Sequence[str]) -> None:
    """Raises ApiError for a field that is not known."""
    for name in body:
        if name not in known:
            raise ApiError(400, f"{name[:60]!r} is no field of this request; it has {', '.join(known)}.", name[:60])


def get_text(body: Body, name: str) -> str | None:
    """A field that is a text.  Raises ApiError for anything else."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise ApiError(400, f"{name} is a {type(value).__name__}; give a text.", name)
    return value


def get_flag(body: Body, name: str) -> bool:
    """A field that is true or false, the default.  Raises ApiError for anything else."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise ApiError(400, f"{name} is {str(value)[:60]}; give true or false.", name)
    return bool(value)


def get_number(body: Body, name: str, default: float) -> float:
    """A field that is a finite number.  Raises ApiError for anything else."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ApiError(400, f"{name} is {str(value)[:60]}; give a number.", name)
    if isinstance(value, int):
        value = min(max(value, -(2**63)), 2**63)
    if not math.isfinite(value):
        raise ApiError(400, f"{name} is {value}; give a finite number.", name)
    return value


def get_count(body: Body, name: str, least: int, most: int) -> int | None:
    """A field that is a whole number from `least` to `most`.  Raises ApiError for anything else."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ApiError(400, f"{name} is {str(value)[:60]}; give a whole number from {least} to {most}.", name)
    return value


def get_inputs(body: Body) -> list[str | Posted]:
    """The inputs of a question, `input` or the list `inputs`: texts, and files as {"name": ..., "data": base64}."""
    given = body.get("inputs")
    if (given is None) == ("input" not in body):
        raise ApiError(400, "Give input, or the list inputs.", "inputs")
    listed = [body["input"]] if given is None else given
    if not isinstance(listed, list):
        raise ApiError(400, f"inputs is a {type(listed).__name__}; give a list.", "inputs")
    return [_read_input(value, number) for number, value in enumerate(listed, 1)]


def _read_input(value: object, number: int) -> str | Posted:
    if isinstance(value, str):
        return value
    if not isinstance(value, dict) or set(value) != {"name", "data"}:
        raise ApiError(400, f'Input {number} is neither a text nor {{"name": ..., "data": base64}}.', "inputs")
    name, data = value["name"], value["data"]
    if not isinstance(name, str) or not isinstance(data, str):
        raise ApiError(400, f"name and data of input {number} are no texts.", "inputs")
    try:
        return Posted(name, base64.b64decode(data.encode(), validate=True))
    except (binascii.Error, ValueError):
        raise ApiError(400, f"data of input {number} is not base64.", "inputs") from None


def get_posted(request: Request, body: bytes) -> Posted:
    """A body that is a file itself; its name is the query's `name`, or the ending that its media type has."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    name = request.query_params.get("name") or f"file{mimetypes.guess_extension(kind) or ''}"
    return Posted(name, body)


def is_json(request: Request) -> bool:
    """Tells if a body is JSON by its media type; one without a type is, and one of the type that curl gives."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    return kind in ("application/json", "application/x-www-form-urlencoded")


async def finish(request: Request, deadline: float, work: Awaitable[Result], jobs: Sequence[Job] = ()) -> Result:
    """Awaits work until a deadline, or until the client leaves, and then cancels its jobs.

    Raises ApiError 504 and ClientDisconnect.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_wait_until_gone(request))
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else reads it after the deadline
    try:
        left = max(deadline - time.monotonic(), 0)
        done, _ = await asyncio.wait({task, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if task in done:
            return task.result()
        if gone in done:
            raise ClientDisconnect
        raise ApiError(504, "The answer was not ready within the deadline of this server.", code="deadline_exceeded")
    finally:
        for job in jobs:
            job.cancelled = True
        task.cancel()
        gone.cancel()


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
