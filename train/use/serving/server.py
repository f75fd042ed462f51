"""The server: sockets, signals, slow clients, and the end of it."""

import asyncio
import gc
import os
import socket
import sys
import threading
from collections.abc import Sequence

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from train.errors import InputError
from train.use.serving.app import State, make_app

GRACE = 1.0  # seconds in which connections that are open are told that the server is ending


def bind(host: str, port: int) -> socket.socket:
    """Binds a socket.  Raises InputError if it cannot."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        said = os.strerror(error.errno or 0) if isinstance(error, OSError) and error.errno else str(error)
        raise InputError(f"{host}:{port} cannot be served at: {said}; give another --host or --port.") from None


def make_protocol(slow: float) -> type[H11Protocol]:
    """Makes a protocol that cuts clients who send no whole head, or read nothing, for `slow` seconds."""

    class Patient(H11Protocol):
        """HTTP/1.1 with a limit on a client's patience."""

        timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._limit()

        def handle_events(self) -> None:
            super().handle_events()
            if self.flow.write_paused:
                return
            if self.cycle is not None and not self.cycle.response_complete:
                self._unlimit()
            elif self.timer is None:
                self._limit()

        def on_response_complete(self) -> None:
            if not self.flow.write_paused:  # all is written, if not read
                self._unlimit()
            super().on_response_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._limit()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._unlimit()

        def connection_lost(self, exc: Exception | None) -> None:
            self._unlimit()
            super().connection_lost(exc)

        def _limit(self) -> None:
            self._unlimit()
            self.timer = self.loop.call_later(slow, self.transport.abort)

        def _unlimit(self) -> None:
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None

    return Patient


class Server(uvicorn.Server):
    """A server that first tells clients that it is ending, and then answers what is under way."""

    def __init__(self, config: uvicorn.Config, state: State) -> None:
        super().__init__(config)
        self.state = state

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuses new requests, with an answer; then closes, once all others are answered."""
        self.state.ending, self.state.ready = True, False
        await asyncio.sleep(GRACE)
        await super().shutdown(sockets)
        for run in self.state.runs.values():
            run.stop()


def make_server(state: State, tokens: Sequence[str], origins: Sequence[str], hosts: Sequence[str] = ()) -> Server:
    """Makes a server; `run(sockets=[...])` serves until SIGTERM or Ctrl-C."""
    config = uvicorn.Config(
        make_app(state, tokens, origins, hosts),
        http=make_protocol(state.limits.slow),
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=max(4 * state.limits.queue, 256),
        timeout_keep_alive=int(state.limits.slow) or 1,
        timeout_graceful_shutdown=int(state.limits.deadline) + 5,
    )
    return Server(config, state)


def warm(state: State, server: Server, failures: list[Exception]) -> threading.Thread:
    """Starts a thread that compiles everything, and then the engines; if it fails, it ends the server."""

    def compile_all() -> None:
        try:
            for run in state.runs.values():
                run.warm()
                run.start()
        except Exception as error:  # of any kind, told by who runs the server
            failures.append(error)
            server.should_exit = True
            return
        gc.collect()
        gc.freeze()  # what lives as long as the server, so that collections while it answers look at little
        state.ready = True
        print("ready", file=sys.stderr, flush=True)

    thread = threading.Thread(target=compile_all, name="warm", daemon=True)
    thread.start()
    return thread
