"""Broadcast of the events of a run to every sink."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from train.errors import InputError
from train.events import Event, Message, Sink, Started, Writer

Emit = Callable[[Event], None]


@contextlib.contextmanager
def broadcast(sinks: Sequence[Sink], started: Started) -> Iterator[Emit]:
    """Opens sinks, yields a function that passes an event to each in turn, and closes them.

    A sink that fails during the run, such as one whose server is gone, is dropped with a message to the others, and
    training continues.  An InputError of a sink, as on a full disk, ends the run.
    """
    writers: list[tuple[str, Writer]] = []

    def emit(event: Event) -> None:
        for name, writer in tuple(writers):
            with tolerate(name, writer):
                writer.write(event)

    @contextlib.contextmanager
    def tolerate(name: str, writer: Writer) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # whatever a library raises
            if (name, writer) in writers:
                writers.remove((name, writer))
            said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            emit(Message(f"warning: the sink {name} has failed ({said}); it gets nothing from here on"))

    failed = True
    try:
        for sink in sinks:
            writers.append((type(sink).__name__, sink.open(started)))
        yield emit
        failed = False
    finally:
        for name, writer in reversed(tuple(writers)):
            with tolerate(name, writer):
                writer.close(failed)
