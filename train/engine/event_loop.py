"""An event loop that lets Orbax end its reads and writes before it is closed."""

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Iterator


class _DrainingLoop(asyncio.SelectorEventLoop):
    """Finishes the tasks that a failed read leaves pending; Orbax closes the loop before they end."""

    def close(self) -> None:
        """Closes the loop after its pending tasks have finished."""
        if not self.is_closed() and (pending := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        super().close()

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: object, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Schedules a callback; drops it if the loop is closed, as it then belongs to a read that has failed."""
        if self.is_closed():
            return asyncio.Handle(callback, args, self, context)
        return super().call_soon_threadsafe(callback, *args, context=context)

    def call_exception_handler(self, context: dict[str, object]) -> None:
        """Logs nothing: a failed read raises its first error, and errors of its other tasks surface much later."""


class _Policy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return _DrainingLoop()


@contextlib.contextmanager
def drain() -> Iterator[None]:
    """Lets Orbax finish all tasks of its reads and writes; a failed one raises its first error and logs nothing."""
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(_Policy())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(before)
