"""Archives of published files: unpacked inside a folder and nowhere else, or read without being unpacked."""

import gzip
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path


def unpack(archive: Path, folder: Path) -> None:
    """Extracts a wheel, zip or tar archive; members that point outside the folder are refused."""
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as members:
            members.extractall(folder)
    else:
        with tarfile.open(archive) as members:
            members.extractall(folder, filter="data")


def members(archive: Path, pattern: str) -> Iterator[tuple[re.Match[str], bytes]]:
    """The files of a zip or tar archive whose whole names match, in its order, and what they hold; nothing is written.

    Raises OSError where the archive cannot be read or has no such file.
    """
    wanted, found = re.compile(pattern), False
    try:
        for name, content in _zipped(archive, wanted) if archive.suffix == ".zip" else _tarred(archive, wanted):
            found = True
            yield name, content
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise OSError(f"{archive} is damaged ({reason}); remove it to fetch it again.") from None
    if not found:
        raise OSError(f"{archive} has no file {pattern}; remove it to fetch it again.")


def _zipped(archive: Path, wanted: re.Pattern[str]) -> Iterator[tuple[re.Match[str], bytes]]:
    with zipfile.ZipFile(archive) as inside:
        for name in inside.namelist():
            if (found := wanted.fullmatch(name)) is not None:
                yield found, inside.read(name)


def _tarred(archive: Path, wanted: re.Pattern[str]) -> Iterator[tuple[re.Match[str], bytes]]:
    with tarfile.open(archive) as inside:
        for member in inside:
            found = wanted.fullmatch(member.name)
            file = inside.extractfile(member) if found is not None and member.isreg() else None
            if found is not None and file is not None:
                yield found, file.read()


def settle(folder: Path, target: Path) -> None:
    """Moves a whole folder to its place, unless another process had it there first."""
    try:
        os.replace(folder, target)
    except OSError:
        if not target.is_dir():
            raise
