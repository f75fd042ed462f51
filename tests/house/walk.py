"""Walk of a batch: the files that handle it from a user's file to the loss, as the interpreter enters them."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType, FrameType

from train.data.lazy import Lazy
from train.data.sources import Split

# files that are handed functions, which they call for who handed them
CALLING_BACK = ("train/data/encoded.py", "train/data/lazy.py")
PACKAGES = ("train/data/", "train/engine/", "train/objectives/")


@dataclasses.dataclass
class Walk:
    """Files of a walk in the order in which they are entered, helpers, and the files that call each one.

    A file is on the walk if one of its functions is handed the file's path, examples or a batch: a path or settings
    with it, a Split, a mapping of columns, or a list of such.  A helper is handed single columns, numbers or notes, and
    can be read by itself: a tokenizer, for example.
    """

    files: list[str] = dataclasses.field(default_factory=list)
    helpers: set[str] = dataclasses.field(default_factory=set)
    callers: dict[str, set[str]] = dataclasses.field(default_factory=dict)


def follow(action: Callable[[], object], root: Path, path: str) -> Walk:
    """Follows an action through the files of PACKAGES below a root; `path` is the user's file that it reads."""
    walk = Walk()
    named: dict[CodeType, str] = {}

    def name(code: CodeType) -> str:
        if code not in named:
            file = Path(code.co_filename)
            below = file.relative_to(root).as_posix() if file.is_relative_to(root) else ""
            named[code] = below if below.startswith(PACKAGES) else ""
        return named[code]

    def enter(frame: FrameType, event: str, argument: object) -> None:
        del argument
        if event != "call" or not (file := name(frame.f_code)):
            return
        code = frame.f_code
        given = [frame.f_locals[each] for each in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]]
        if any(_is_handed_on(value, path) for value in given):
            if file not in walk.files:
                walk.files.append(file)
        else:
            walk.helpers.add(file)
        caller = frame.f_back
        while caller is not None and name(caller.f_code) in ("", *CALLING_BACK):
            caller = caller.f_back
        if caller is not None and (other := name(caller.f_code)) != file:
            walk.callers.setdefault(file, set()).add(other)

    sys.setprofile(enter)
    try:
        action()
    finally:
        sys.setprofile(None)
    walk.helpers -= set(walk.files)
    return walk


def _is_handed_on(value: object, path: str) -> bool:
    match value:
        case str() | Path():
            return str(value) == path
        case Lazy():  # it is handed functions, and its items are handed on by whoever asks for them
            return False
        case Split() | Mapping():
            return True
        case [first, *_]:
            return _is_handed_on(first, path)
        case object(__dict__=settings):
            return settings.get("path") == path
        case _:
            return False
