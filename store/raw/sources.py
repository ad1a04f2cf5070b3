"""Folders of raw files, on this machine or behind an fsspec URL: what lies in them, by relative path."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

from fintune_xr.errors import FintuneValueError
from fintune_xr.store.zarr_io.object_storage import check_url, file_system
from fintune_xr.store.zarr_io.refusals import explain_refusals

Place: TypeAlias = Path | str
"""A local path, or an fsspec URL such as s3://bucket/folder."""


def list_files(source: Place) -> list[str]:
    """Paths of all files under `source`, relative to it, with `/` between folders, in no particular order.

    Links to folders are followed; a folder reached twice on the way down is read once, so a link to a parent
    ends there.

    Raises FintuneValueError where `source` is not a folder.
    """
    if is_url(source):
        return _list_url(str(source))
    root = Path(source)
    if not root.is_dir():
        raise FintuneValueError(f"expected a folder of images, found none at {root}. Correct SOURCE.")
    found: list[str] = []
    _walk(str(root), "", frozenset(), found)
    return found


def place_in(source: Place, relative: str) -> Place:
    """The place of a file that `list_files` named."""
    return f"{str(source).rstrip('/')}/{relative}" if is_url(source) else Path(source) / relative


@contextmanager
def open_place(place: Place) -> Iterator[BinaryIO]:
    """The file at `place`, opened for reading bytes.

    Raises OSError where it cannot be opened, or be read later; of a URL that is a StoreUnreachableError.
    """
    if not is_url(place):
        with (place if isinstance(place, Path) else Path(place)).open("rb") as file:
            yield file
        return
    filesystem, path = file_system(str(place))
    # Around the readings too: a connection is lost at any of them, and libraries raise errors of their own then.
    with explain_refusals(str(place)), filesystem.open(path, "rb") as file:
        yield cast(BinaryIO, file)


def place_sha256(place: Place) -> str:
    """SHA-256 of the bytes at `place`; raises OSError where they cannot be read."""
    with open_place(place) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def changed_at(place: Place) -> float:
    """When the bytes at `place` were last written or put in place, in seconds since 1970.

    Locally the later of modification and status change, so that copying with preserved dates cannot hide it.
    """
    if is_url(place):
        filesystem, path = file_system(str(place))
        with explain_refusals(str(place)):
            return float(filesystem.modified(path).timestamp())
    status = Path(place).stat()
    return max(status.st_mtime, status.st_ctime)


def is_url(place: Place) -> bool:
    """True where `place` is an fsspec URL."""
    return isinstance(place, str) and "://" in place


def _list_url(source: str) -> list[str]:
    check_url(source)
    filesystem, root = file_system(source)
    prefix = root.rstrip("/") + "/"
    with explain_refusals(source):
        found = [path.removeprefix(prefix) for path in filesystem.find(root)]
    if not found:
        raise FintuneValueError(f"expected images under {source}, found nothing. Correct SOURCE.")
    return found


def _walk(folder: str, relative: str, above: frozenset[tuple[int, int]], found: list[str]) -> None:
    status = Path(folder).stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{relative}{entry.name}"
            if entry.is_dir():
                _walk(entry.path, f"{name}/", above | {here}, found)
            elif not _waits(entry):
                found.append(name)


def _waits(entry: os.DirEntry[str]) -> bool:
    """Whether it is a pipe, socket or device, which holds no data and may keep who opens it waiting for ever."""
    try:
        mode = entry.stat().st_mode
    except OSError:
        # A link to nowhere, say: whoever reads it says so.
        return False
    return not stat.S_ISREG(mode)
