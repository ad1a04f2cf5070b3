"""Files that appear whole or not at all, and what is said where the system refuses to write."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fintune_xr.errors import StoreWriteError

PARTIAL_SUFFIX: Final = ".partial"
_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO}
_NO_PLACE = {errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}

# Numbers of processes mean something on their machine alone, and say nothing after it has started anew.
_MACHINE: Final = hashlib.sha256(platform.node().encode()).hexdigest()[:12]
_SWEPT: set[Path] = set()


@contextlib.contextmanager
def whole_file(path: Path, *, alone: bool = False) -> Iterator[Path]:
    """A place beside `path` to write to; it takes the place of `path` once the block ends without an error.

    The place has another name each time, for several may write `path` at once. Where one writer is `alone`, it is
    named after `path`: torch writes the name of a file into it, and equal weights shall be equal bytes. Places that
    processes of this machine left in the folder when they were killed are removed. What was written is forced to the
    disk first: a machine that loses its power leaves the file of before or the whole new one, never an empty one.

    Raises StoreWriteError on a full disk, a read-only path or missing permission.
    """
    with write_errors(str(path)):
        if path.is_dir():
            raise StoreWriteError(f"cannot write {path}: it is a folder. Name a file.")
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = place_beside(path)
        partial = path.with_name(f".{path.name}{PARTIAL_SUFFIX}") if alone else beside
        try:
            yield partial
            sync(partial)
            partial.replace(path)
            sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """As `whole_file` for a folder: what is made at the place takes the place of the folder `path`.

    No system replaces a folder that is not empty: for a moment there is none at `path`, but never half of one.

    Raises StoreWriteError on a full disk, a read-only path or missing permission.
    """
    with write_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, old = place_beside(path), place_beside(path)
        try:
            yield partial
            _sync_tree(partial)
            if path.exists():
                path.rename(old)
            partial.rename(path)
            sync(path.parent)
        except BaseException:
            if old.exists() and not path.exists():
                old.rename(path)
            raise
        finally:
            for left in (partial, old):
                shutil.rmtree(left, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Removes the folder `path` and all in it: it vanishes at once, then its files are deleted."""
    with write_errors(str(path)):
        gone = place_beside(path)
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for inside, _, files in os.walk(folder):
        for name in files:
            sync(Path(inside) / name)
        sync(Path(inside))


def sync(path: Path) -> None:
    """Forces a file to the disk, or of a folder the names that lie in it, as far as its file system can do that."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Shares of other systems know it of files, and often not of folders.
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)


def place_beside(path: Path) -> Path:
    """Where `path` is written before it is whole, a file or a folder; places that the dead left there are removed.

    The name tells the process, by which it is known whether anybody still writes there.
    """
    _sweep(path.parent)
    return path.with_name(f".{_MACHINE}-{os.getpid()}-{uuid.uuid4().hex[:12]}{PARTIAL_SUFFIX}")


def _sweep(folder: Path) -> None:
    """Removes places of dead processes of this machine; once in a process, for folders may hold a million files."""
    if folder in _SWEPT:
        return
    _SWEPT.add(folder)
    for left in folder.glob(f".{_MACHINE}-*-*{PARTIAL_SUFFIX}"):
        process = left.name.split("-")[1]
        if process.isdigit() and not _is_alive(int(process)):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # Somebody else's.
        return True
    return True


@contextlib.contextmanager
def write_errors(what: str) -> Iterator[None]:
    """Turns the operating system's refusals to write or lock `what` into a StoreWriteError that says what to do.

    An error that names another file, such as one that is read meanwhile, is none of them and stays what it is.
    """
    try:
        yield
    except OSError as error:
        if _names_another_file(error, what):
            raise
        if error.errno in _NO_LOCKS:
            raise StoreWriteError(
                f"{what} cannot be locked: {error.strerror}, and without locks two writers could not be kept apart. "
                "Mount the file system with them (Lustre: flock), or keep the store on another one."
            ) from error
        if error.errno in _NO_PLACE:
            raise StoreWriteError(f"cannot write {what}: {error.strerror}. Name another place.") from error
        if error.errno not in _CANNOT_WRITE:
            raise
        raise StoreWriteError(
            f"cannot write {what}: {error.strerror}. Everything stored before is intact. "
            "Make room (df -h, quota) or make the path writable, then run the same command again."
        ) from error


def _names_another_file(error: OSError, what: str) -> bool:
    """Whether the system said it of files that lie neither where `what` is written, nor on the way there.

    A store is written as a whole: what is staged in it lies in another of its folders than what it becomes.
    """
    named = [os.path.realpath(os.fsdecode(one)) for one in (error.filename, error.filename2) if _is_path(one)]
    if not named or "://" in what:
        return False
    written = Path(os.path.realpath(what))
    above = [folder for folder in written.parents if os.access(folder / "zarr.json", os.F_OK)]
    whole = above[-1] if above else written.parent
    return not any(Path(one).is_relative_to(whole) or written.is_relative_to(one) for one in named)


def _is_path(named: object) -> bool:
    return isinstance(named, str | bytes)
