"""Peak memory of a stretch of a process: of an accelerator's allocator, or of the resident pages of the process."""

import re
from pathlib import Path

import jax

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MARK = re.compile(r"^VmHWM:\s+(\d+) kB", re.M)


class Peak:
    """The peak since `begin`.

    On an accelerator that is `peak_bytes_in_use` of the first device, which nothing resets: known only if it rose.
    Elsewhere it is the resident high-water mark of the process, which Linux resets; None on other systems.
    """

    def __init__(self) -> None:
        self.before, self.reset = 0, False

    def begin(self) -> None:
        """Begins the stretch."""
        self.before, self.reset = _read_allocator() or 0, False
        if not self.before:
            try:
                CLEAR.write_text("5")  # resets the high-water mark to what is resident: man 5 proc
                self.reset = True
            except OSError:
                pass

    def read(self) -> int | None:
        """The peak in bytes, None if it is not known for this stretch alone."""
        peak = _read_allocator()
        if peak is not None:
            return peak if peak > self.before else None
        if not self.reset:
            return None
        match = MARK.search(STATUS.read_text())
        return int(match[1]) * 1024 if match else None


def _read_allocator() -> int | None:
    stats = jax.local_devices()[0].memory_stats() or {}
    return int(stats["peak_bytes_in_use"]) if "peak_bytes_in_use" in stats else None
