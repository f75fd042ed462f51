"""One place for the events of a run that hands them to every sink."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from train.errors import InputError
from train.events import Event, Message, Sink, Started, Writer

Emit = Callable[[Event], None]


@contextlib.contextmanager
def broadcast(sinks: Sequence[Sink], started: Started) -> Iterator[Emit]:
    """Opens sinks, gives the function that hands an event to each in turn, and closes them.

    A sink that fails while the run goes on, such as a server that is gone, is left out from there on, with a message
    to the others: training does not end with it.  An InputError of a sink, as on a full disk, ends the run.
    """
    writers: list[tuple[str, Writer]] = []

    def emit(event: Event) -> None:
        for name, writer in tuple(writers):
            with _tolerated(name, writer):
                writer.write(event)

    @contextlib.contextmanager
    def _tolerated(name: str, writer: Writer) -> Iterator[None]:
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
            with _tolerated(name, writer):
                writer.close(failed)
