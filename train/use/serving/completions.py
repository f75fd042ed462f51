"""Completions and chat in OpenAI's form, whole or streamed as server-sent events."""

import asyncio
import dataclasses
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence

from models.decoding.sampling import Sampler
from train.errors import InputError
from train.use.serving.generation import Generation, Piece, read_pieces
from train.use.serving.inputs import require_characters
from train.use.serving.requests import (
    ApiError,
    Body,
    get_count,
    get_flag,
    get_number,
    get_text,
    require_known,
)
from train.use.serving.served import Served

TURN = "\nuser:"  # where a model of plain text would take the other side of a chat
# Fields of OpenAI that are taken with these values alone, since they ask for nothing more.
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "suffix": ("",),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
IGNORED = ("user", "metadata", "store", "safety_identifier", "service_tier", "parallel_tool_calls")
SETTINGS = ("model", "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "stream", "stream_options")
STOPS = 4


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A client's request: prompts, tokens at most, how to draw them, where to stop, and how to answer."""

    chat: bool
    prompts: tuple[str, ...]
    most: int | None
    sampler: Sampler
    seed: int | None
    stops: tuple[str, ...]
    stream: bool
    usage: bool


def parse_wanted(body: Body, chat: bool, context: int) -> Wanted:
    """Parses a request for completions, or for a chat.  Raises ApiError, with the field, for what cannot be done."""
    own = ("messages", "max_completion_tokens") if chat else ("prompt",)
    require_known(body, (*own, *SETTINGS, *NEUTRAL, *IGNORED))
    for name, values in NEUTRAL.items():
        value = body.get(name)
        if value is not None and not any(value == each and type(value) is not bool or value is each for each in values):
            wanted = " or ".join(json.dumps(each) for each in values)
            raise ApiError(400, f"{name} is {str(value)[:60]}, and this server takes {wanted} alone.", name)
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise ApiError(400, "stream_options is no object.", "stream_options")
    top_k = get_count(body, "top_k", 1, 2**31 - 1)
    try:
        sampler = Sampler(
            get_number(body, "temperature", 1.0),
            top_k,
            get_number(body, "top_p", 1.0),
            get_number(body, "min_p", 0.0) or None,
        )
    except ValueError as error:
        raise ApiError(400, str(error).removeprefix("Sampler.")) from None
    names = ("max_completion_tokens", "max_tokens") if chat else ("max_tokens",)
    counts = [get_count(body, name, 1, context) for name in names]
    most = next((count for count in counts if count is not None), None if chat else 16)
    return Wanted(
        chat,
        (format_chat(body.get("messages")),) if chat else _read_prompts(body.get("prompt")),
        most,
        sampler,
        get_count(body, "seed", -(2**63), 2**64 - 1),
        (*_read_stops(body.get("stop")), *((TURN,) if chat else ())),
        get_flag(body, "stream"),
        get_flag(options, "include_usage"),
    )


def _read_prompts(given: object) -> tuple[str, ...]:
    prompts = [given] if isinstance(given, str) else given
    if not isinstance(prompts, list) or not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise ApiError(400, "prompt is neither a text nor a list of texts.", "prompt")
    return tuple(prompts)


def _read_stops(given: object) -> tuple[str, ...]:
    stops = [given] if isinstance(given, str) else given or []
    if not isinstance(stops, list) or len(stops) > STOPS or not all(isinstance(stop, str) and stop for stop in stops):
        raise ApiError(400, f"stop is neither a text nor a list of up to {STOPS} texts.", "stop")
    return tuple(stops)


def format_chat(messages: object) -> str:
    """Formats messages as plain text, a turn `role: content` a line, and the beginning of the assistant's turn."""
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages is no list of messages.", "messages")
    lines = [f"{role}: {content}" for role, content in map(_read_message, messages)]
    return "\n".join([*lines, "assistant:"])


def _read_message(message: object) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise ApiError(400, "A message is no object.", "messages")
    role, content = get_text(message, "role"), message.get("content")
    if role not in ("system", "developer", "user", "assistant"):
        raise ApiError(400, "The role of a message is none of system, developer, user and assistant.", "messages")
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        content = None if None in parts else "".join(map(str, parts))
    if not isinstance(content, str):
        raise ApiError(400, "The content of a message is no text.", "messages")
    return role, content


def make_jobs(served: Served, wanted: Wanted, deadline: float) -> list[Generation]:
    """Makes a job for every prompt.  Raises ApiError for prompts without tokens, and texts beyond the context."""
    generator, data = served.generator, served.tokenised
    if generator is None or data is None:
        raise ApiError(400, f"The run {served.name} generates no text; ask /v1/predict.", "model")
    jobs: list[Generation] = []
    for number, prompt in enumerate(wanted.prompts):
        try:
            require_characters(prompt, "The prompt")
        except InputError as error:
            raise ApiError(400, str(error), "prompt") from None
        ids = data.tokens.encode([prompt])[0].tolist()
        if not ids:
            raise ApiError(400, "The prompt has no tokens; give at least one.", "prompt")
        room = generator.context - len(ids)
        if room < (wanted.most or 1):
            raise ApiError(
                400,
                f"The prompt has {len(ids)} tokens and {wanted.most or 1} are to follow; texts of this server have up"
                f" to {generator.context}.",
                "max_tokens" if room > 0 else "prompt",
                "context_length_exceeded",
            )
        seed = (time.monotonic_ns() if wanted.seed is None else wanted.seed) + number
        future = asyncio.get_running_loop().create_future()
        job = Generation(
            deadline,
            future,
            prompt=ids,
            most=wanted.most or room,
            sampler=wanted.sampler,
            seed=seed % 2**32,
            end=served.end,
        )
        jobs.append(job)
    return jobs


@dataclasses.dataclass(frozen=True)
class Writer:
    """Writes completions of one request."""

    wanted: Wanted
    model: str
    name: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))

    def _head(self, suffix: str = "") -> dict[str, object]:
        chat = self.wanted.chat
        return {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{self.name}",
            "object": f"chat.completion{suffix}" if chat else "text_completion",
            "created": self.created,
            "model": self.model,
        }

    async def whole(self, jobs: Sequence[Generation], served: Served) -> dict[str, object]:
        """The whole answer."""
        choices: list[object] = []
        for index, job in enumerate(jobs):
            pieces = [piece async for piece in self._read(job, served)]
            text, reason = "".join(piece.text for piece in pieces), pieces[-1].reason
            said = {"message": {"role": "assistant", "content": text}} if self.wanted.chat else {"text": text}
            choices.append({"index": index, **said, "logprobs": None, "finish_reason": reason})
        return {**self._head(), "choices": choices, "usage": count_usage(jobs)}

    def _read(self, job: Generation, served: Served) -> AsyncIterator[Piece]:
        assert served.tokenised is not None
        return read_pieces(job, served.tokenised.tokens, self.wanted.stops)

    async def stream(self, jobs: Sequence[Generation], served: Served) -> AsyncIterator[bytes]:
        """Server-sent events: a chunk for every piece, prompt after prompt, then [DONE]."""
        try:
            for index, job in enumerate(jobs):
                if self.wanted.chat:
                    yield self._chunk(index, {"delta": {"role": "assistant", "content": ""}}, None)
                async for piece in self._read(job, served):
                    said = {"delta": {"content": piece.text}} if self.wanted.chat else {"text": piece.text}
                    if piece.text or not self.wanted.chat:
                        yield self._chunk(index, said, None if self.wanted.chat else piece.reason)
                    if self.wanted.chat and piece.reason:
                        yield self._chunk(index, {"delta": {}}, piece.reason)
            if self.wanted.usage:
                yield _event({**self._head(".chunk"), "choices": [], "usage": count_usage(jobs)})
            yield b"data: [DONE]\n\n"
        except TimeoutError:
            late = ApiError(
                504, "The text was not finished within the deadline of this server.", code="deadline_exceeded"
            )
            yield _event(late.content)
        finally:
            for job in jobs:
                job.cancelled = True

    def _chunk(self, index: int, said: Mapping[str, object], reason: str | None) -> bytes:
        choice = {"index": index, **said, "logprobs": None, "finish_reason": reason}
        return _event({**self._head(".chunk"), "choices": [choice]})


def _event(value: object) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def count_usage(jobs: Sequence[Generation]) -> dict[str, int]:
    """Counts tokens of prompts and of answers."""
    prompt, drawn = sum(len(job.prompt) for job in jobs), sum(job.count for job in jobs)
    return {"prompt_tokens": prompt, "completion_tokens": drawn, "total_tokens": prompt + drawn}
