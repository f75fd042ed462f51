"""An event loop that lets Orbax end its reads and writes before it is closed."""

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any


class _DrainingLoop(asyncio.SelectorEventLoop):
    """Lets what a failed read leaves behind come to its end; Orbax closes the loop under it, and stack traces follow
    the one sentence.
    """

    def close(self) -> None:
        """Closes when nothing is pending."""
        if not self.is_closed() and (pending := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        super().close()

    def call_soon_threadsafe(
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """As any loop; what a thread still has to tell one that is closed is of a read that has failed, and dropped."""
        if self.is_closed():
            return asyncio.Handle(callback, args, self, context)
        return super().call_soon_threadsafe(callback, *args, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Says nothing: a failed read raises its first error, and the errors of its other tasks are collected at any
        later time.
        """


class _Policy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return _DrainingLoop()


@contextlib.contextmanager
def drain() -> Iterator[None]:
    """Lets Orbax end all tasks of its reads and writes; a failed one raises its first error and logs nothing."""
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(_Policy())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(before)
