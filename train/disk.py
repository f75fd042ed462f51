"""Failed writes (a full or read-only disk, a quota) as one sentence: what is kept, and how to go on."""

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
    """Finds the system's reason for a failed write in an error, its causes or its text; None for other errors."""
    waiting: list[BaseException | None] = [error]
    seen: list[BaseException] = []
    while waiting:
        cause = waiting.pop()
        if cause is None or any(cause is other for other in seen):
            continue
        seen.append(cause)
        if isinstance(cause, OSError) and cause.errno in REASONS:
            return REASONS[cause.errno]
        if said := next((words for words in REASONS.values() if words in str(cause)), None):
            return said
        waiting += [cause.__cause__, cause.__context__]
        waiting += cause.exceptions if isinstance(cause, BaseExceptionGroup) else ()
    return None


class ReportedWrites(logging.Filter):
    """Drops asyncio's log records of failed writes, which have been reported already."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tells if a record is of anything but a failed write."""
        error = record.exc_info[1] if record.exc_info else None
        return error is None or find_reason(error) is None


REPORTED_WRITES = ReportedWrites()


@contextlib.contextmanager
def explain_failed_writes(folder: Path, kept: str = "") -> Iterator[None]:
    """Raises InputError if a write to a run's folder fails inside; `kept` is a sentence on what the run still has."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # libraries wrap the system's error in errors of many types
        said = find_reason(error)
        if said is None:
            raise
        what = f"{folder} cannot be written: {said}." + (f" {kept}" if kept else "")
        raise InputError(f"{what} Make room, or make it writable, and run the same command again.") from None
