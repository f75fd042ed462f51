"""The HTTP application: who may ask, what is answered at each path, and how errors are told."""

import asyncio
import functools
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from train.errors import InputError
from train.use.serving.batching import FullError, Job
from train.use.serving.completions import Writer, make_jobs, parse_wanted
from train.use.serving.metrics import Metrics
from train.use.serving.requests import (
    ApiError,
    finish,
    get_count,
    get_flag,
    get_inputs,
    get_posted,
    get_text,
    is_json,
    parse_object,
    read_body,
    require_known,
)
from train.use.serving.served import Limits, Served

OPEN = ("/", "/health", "/ready")  # paths that need no token
PAGE = Path(__file__).with_name("page.html")
BODIES = 32  # bodies of the largest size that are held at once
PATIENCE = 5  # deadlines of an answer in which one is explained
LEFT = 499  # the status, in metrics alone, of a request whose client has left
SAFE = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline';"
    " connect-src 'self'; img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
Handler = Callable[[Request], Awaitable[Response]]


class State:
    """The state of a server: its runs, whether everything is compiled, whether it is ending."""

    def __init__(self, runs: Sequence[Served], limits: Limits, metrics: Metrics) -> None:
        self.runs = {run.name: run for run in runs}
        self.limits, self.metrics = limits, metrics
        self.ready = self.ending = False
        self.bytes = 0  # of the bodies of requests under way

    def find(self, name: str | None) -> Served:
        """The run of a name; the only one without a name.  Raises ApiError."""
        known = ", ".join(self.runs)
        if name is None:
            if len(self.runs) > 1:
                raise ApiError(400, f"Name the run by model; there are {known}.", "model")
            return next(iter(self.runs.values()))
        if name not in self.runs:
            raise ApiError(404, f"There is no run {name[:60]!r}; there is {known}.", "model", "model_not_found")
        return self.runs[name]


class Guard:
    """Middleware: refuses requests without a token and those that come too late, and measures the others."""

    def __init__(self, app: ASGIApp, state: State, tokens: Sequence[str], hosts: Sequence[str]) -> None:
        self.app, self.state, self.hosts = app, state, hosts
        self.digests = [hashlib.sha256(token.encode()).digest() for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if any(scope["path"] == route.path for route in ROUTES) else "other"
        began, status = time.monotonic(), LEFT

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.state.ending:
                    message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        held = 0

        async def count() -> Message:
            nonlocal held
            message = await receive()
            size = len(message.get("body", b""))
            held += size
            self.state.bytes += size
            if self.state.bytes > BODIES * self.state.limits.body:
                raise FullError(1)
            return message

        refusal = self._refuse(scope)
        try:
            await (self.app if refusal is None else refusal.respond())(scope, count, note)
        except ClientDisconnect:
            status = LEFT
        finally:
            self.state.bytes -= held
            self.state.metrics.requests.labels(path, status).inc()
            self.state.metrics.seconds.labels(path).observe(time.monotonic() - began)

    def _refuse(self, scope: Scope) -> ApiError | None:
        if self.hosts and (host := get_host(scope)) not in self.hosts:
            said = f"The request is for the host {host[:60]!r}, and without a token this server answers for"
            return ApiError(421, f"{said} {', '.join(self.hosts)} alone.")
        if scope["path"] not in OPEN and self.digests and scope["method"] != "OPTIONS" and not self._knows(scope):
            headers = {"www-authenticate": "Bearer"}
            return ApiError(401, "Give a token of this server: Authorization: Bearer TOKEN.", headers=headers)
        if self.state.ending and scope["path"] != "/health":
            return ApiError(503, "The server is ending; ask another one.", headers={"retry-after": "5"})
        if scope["path"].startswith("/v1/") and not self.state.ready:
            return ApiError(503, "The runs are being compiled; see /ready.", headers={"retry-after": "1"})
        return None

    def _knows(self, scope: Scope) -> bool:
        """Tells if a request has a token, in a time that does not depend on which."""
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        kind, _, token = (given[0] if len(given) == 1 else b"").partition(b" ")
        digest = hashlib.sha256(token.strip()).digest()
        matches = [hmac.compare_digest(digest, known) for known in self.digests]
        return kind.lower() == b"bearer" and any(matches)


def get_host(scope: Scope) -> str:
    """The host that a request is for, without its port."""
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    return host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0].lower()


async def show_page(request: Request) -> Response:
    """The page to try the runs by hand."""
    del request
    return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=SAFE)


async def show_health(request: Request) -> Response:
    """Alive."""
    del request
    return JSONResponse({"status": "ok"})


async def show_ready(request: Request) -> Response:
    """Ready: everything is compiled, and the server is not ending."""
    state: State = request.app.state.serving
    return JSONResponse({"ready": state.ready}, 200 if state.ready else 503)


async def show_metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    state: State = request.app.state.serving
    return Response(state.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def list_models(request: Request) -> Response:
    """The runs, in OpenAI's form."""
    state: State = request.app.state.serving
    return JSONResponse({"object": "list", "data": [run.describe() for run in state.runs.values()]})


async def show_model(request: Request) -> Response:
    """A run, in OpenAI's form."""
    state: State = request.app.state.serving
    return JSONResponse(state.find(request.path_params["name"]).describe())


async def predict(request: Request) -> Response:
    """Answers of `morphax predict`, for texts, posted files, or a body that is a file."""
    state: State = request.app.state.serving
    deadline = time.monotonic() + state.limits.deadline
    body = await read_body(request, state.limits.body, state.limits.slow)
    if is_json(request):
        fields = parse_object(body)
        require_known(fields, ("model", "input", "inputs"))
        served, inputs = state.find(get_text(fields, "model")), get_inputs(fields)
    else:
        served, inputs = state.find(request.query_params.get("model")), [get_posted(request, body)]
    reading = Job(deadline, asyncio.get_running_loop().create_future())
    pending = [reading]

    async def answer() -> Response:
        asked, notes = await served.read(inputs, reading)
        if all(question.arrays is None for question in asked):
            raise ApiError(400, asked[0].reason, "input")
        jobs = served.ask(asked, deadline)
        pending.extend(job for job in jobs if job is not None)
        await asyncio.gather(*(job.future for job in pending[1:]))
        answers = [
            {"input": question.text, **({"unanswered": question.reason} if job is None else job.answer)}
            for question, job in zip(asked, jobs, strict=True)
        ]
        try:
            return JSONResponse({"model": served.name, "answers": answers, "notes": notes})
        except ValueError:  # JSON has no NaN
            raise ApiError(500, f"{served.name} answers with numbers that are not finite; train it anew.") from None

    return await finish(request, deadline, answer(), pending)


async def explain(request: Request) -> Response:
    """The numbers of `morphax explain`, or its page; computed one at a time, and compiled each time, which may take."""
    state: State = request.app.state.serving
    deadline = time.monotonic() + PATIENCE * state.limits.deadline
    body = await read_body(request, state.limits.body, state.limits.slow)
    fields: dict[str, object] = parse_object(body) if is_json(request) else {}
    require_known(fields, ("model", "input", "number", "page"))
    served = state.find(get_text(fields, "model") or request.query_params.get("model"))
    inputs = get_inputs(fields) if is_json(request) else [get_posted(request, body)]
    number = get_count(fields, "number", 1, state.limits.questions)
    record, page = await finish(request, deadline, served.explain(inputs[0], number))
    if get_flag(fields, "page"):
        return HTMLResponse(page, headers=SAFE)
    return JSONResponse({"model": served.name, **record})


async def complete(request: Request, chat: bool) -> Response:
    """Completions, or a chat, in OpenAI's form."""
    state: State = request.app.state.serving
    deadline = time.monotonic() + state.limits.deadline
    fields = parse_object(await read_body(request, state.limits.body, state.limits.slow))
    served = state.find(get_text(fields, "model"))
    context = 1 if served.generator is None else served.generator.context
    wanted = parse_wanted(fields, chat, context)
    if len(wanted.prompts) > state.limits.questions:
        raise ApiError(400, f"prompt has more than {state.limits.questions} texts.", "prompt")
    jobs = make_jobs(served, wanted, deadline)
    served.prompts.put(jobs)
    writer = Writer(wanted, served.name)
    if wanted.stream:
        return StreamingResponse(writer.stream(jobs, served), media_type="text/event-stream")
    try:
        return JSONResponse(await finish(request, deadline + 1, writer.whole(jobs, served), jobs))
    except TimeoutError:
        raise ApiError(
            504, "The text was not finished within the deadline of this server.", code="deadline_exceeded"
        ) from None


ROUTES = [
    Route("/", show_page),
    Route("/health", show_health),
    Route("/ready", show_ready),
    Route("/metrics", show_metrics),
    Route("/v1/models", list_models),
    Route("/v1/models/{name}", show_model),
    Route("/v1/predict", predict, methods=["POST"]),
    Route("/v1/explain", explain, methods=["POST"]),
    Route("/v1/completions", functools.partial(complete, chat=False), methods=["POST"]),
    Route("/v1/chat/completions", functools.partial(complete, chat=True), methods=["POST"]),
]


def tell(error: Exception) -> ApiError:
    """The error to answer with."""
    match error:
        case ApiError():
            return error
        case FullError():
            headers = {"retry-after": str(error.seconds)}
            return ApiError(429, str(error), code="queue_full", headers=headers)
        case InputError():
            return ApiError(400, str(error))
        case HTTPException():
            return ApiError(error.status_code, f"{error.detail}.", headers=error.headers)
        case _:
            return ApiError(500, f"The server failed ({type(error).__name__}); its log says more.")


async def respond(request: Request, error: Exception) -> Response:
    """The response to an error, in OpenAI's form."""
    del request
    return tell(error).respond()


def make_app(state: State, tokens: Sequence[str], origins: Sequence[str], hosts: Sequence[str] = ()) -> Starlette:
    """Makes the application.  Other origins' pages may ask only if `origins` has them.

    Without a token only requests for one of `hosts` are answered, if it has any, so that no page of the web reaches a
    server of this machine by a name of its own that leads here.
    """
    middleware = [Middleware(Guard, state=state, tokens=tokens, hosts=() if tokens else hosts)]
    if origins:
        allowed = ["authorization", "content-type"]
        middleware.insert(
            0, Middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["*"], allow_headers=allowed)
        )
    errors = (ApiError, FullError, InputError, HTTPException, Exception)
    app = Starlette(routes=ROUTES, middleware=middleware, exception_handlers=dict.fromkeys(errors, respond))
    app.router.redirect_slashes = False  # a path that is not exact is none
    app.state.serving = state
    return app
