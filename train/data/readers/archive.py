"""Archives of published files: unpacked safely into a folder, or read without unpacking."""

import gzip
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path


def unpack(archive: Path, folder: Path) -> None:
    """Extracts a wheel, zip or tar archive; refuses members that point outside the folder."""
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(folder)
    else:
        with tarfile.open(archive) as tarred:
            tarred.extractall(folder, filter="data")


def read_members(archive: Path, pattern: str) -> Iterator[tuple[re.Match[str], bytes]]:
    """Yields the match and the content of each file of a zip or tar archive whose whole name matches, in its order.

    Raises OSError if the archive cannot be read or has no such file.
    """
    wanted = re.compile(pattern)
    matched = False
    try:
        for match, content in _read_zip(archive, wanted) if archive.suffix == ".zip" else _read_tar(archive, wanted):
            matched = True
            yield match, content
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise OSError(f"{archive} is damaged ({reason}); remove it to fetch it again.") from None
    if not matched:
        raise OSError(f"{archive} has no file {pattern}; remove it to fetch it again.")


def _read_zip(archive: Path, wanted: re.Pattern[str]) -> Iterator[tuple[re.Match[str], bytes]]:
    with zipfile.ZipFile(archive) as inside:
        for name in inside.namelist():
            if (match := wanted.fullmatch(name)) is not None:
                yield match, inside.read(name)


def _read_tar(archive: Path, wanted: re.Pattern[str]) -> Iterator[tuple[re.Match[str], bytes]]:
    with tarfile.open(archive) as inside:
        for member in inside:
            match = wanted.fullmatch(member.name)
            file = inside.extractfile(member) if match is not None and member.isreg() else None
            if match is not None and file is not None:
                yield match, file.read()


def settle(folder: Path, target: Path) -> None:
    """Moves a complete folder to its target, unless another process did so first."""
    try:
        os.replace(folder, target)
    except OSError:
        if not target.is_dir():
            raise
