"""Broken versions of the strangers' files: `python -m tests.strangers FOLDER` writes NAME.py and NAME.law for each."""

import sys
from pathlib import Path

from tests.strangers.faults import FAULTS


def write(folder: Path) -> None:
    """Writes each fault as a file of its own, with the law that must find it beside it."""
    for fault in FAULTS:
        sound = (Path(__file__).parent / f"{fault.file}.py").read_text(encoding="utf-8")
        if (times := sound.count(fault.old)) != 1:
            raise ValueError(f"{fault.file}.py has {times} times, not once, what {fault.name} replaces")
        (folder / f"{fault.name}.py").write_text(sound.replace(fault.old, fault.new), encoding="utf-8")
        (folder / f"{fault.name}.law").write_text(fault.law, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
