"""Writes that fail (a disk that is full or read-only, a quota) as one sentence that says what is kept and how to go
on.
"""

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from train.errors import InputError

REASONS = {
    number: os.strerror(number)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
}


def find_reason(error: BaseException) -> str | None:
    """Why the system refused to write, found in an error, in what caused it, or in what a library says of it; None for
    other errors.
    """
    waiting: list[BaseException | None] = [error]
    seen: list[BaseException] = []
    while waiting:
        one = waiting.pop()
        if one is None or any(one is other for other in seen):
            continue
        seen.append(one)
        if isinstance(one, OSError) and one.errno in REASONS:
            return REASONS[one.errno]
        if said := next((words for words in REASONS.values() if words in str(one)), None):
            return said
        waiting += [one.__cause__, one.__context__, *(one.exceptions if isinstance(one, BaseExceptionGroup) else ())]
    return None


class ReportedWrites(logging.Filter):
    """Keeps what asyncio says of writes that nobody waits for any more off the screen where a failed one has been
    told.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is of something else."""
        error = record.exc_info[1] if record.exc_info else None
        return error is None or find_reason(error) is None


REPORTED_WRITES = ReportedWrites()


@contextlib.contextmanager
def explain_failed_writes(folder: Path, kept: str = "") -> Iterator[None]:
    """Raises InputError where what is done inside cannot be written to a run's folder; `kept` says what the run has."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # libraries wrap what the system says in errors of many kinds
        said = find_reason(error)
        if said is None:
            raise
        what = f"{folder} cannot be written: {said}." + (f" {kept}" if kept else "")
        raise InputError(f"{what} Make room, or make it writable, and run the same command again.") from None
