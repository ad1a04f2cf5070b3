"""Files that appear whole or not at all, and what is said where the system refuses to write."""

from __future__ import annotations

import contextlib
import errno
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fintune_xr.errors import StoreWriteError

PARTIAL_SUFFIX: Final = ".partial"
_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO}
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}


@contextlib.contextmanager
def whole_file(path: Path, *, alone: bool = False) -> Iterator[Path]:
    """A place beside `path` to write to; it takes the place of `path` once the block ends without an error.

    The place has another name each time, for several may write `path` at once. Where one writer is `alone`, it is
    named after `path`: torch writes the name of a file into it, and equal weights shall be equal bytes.

    Raises StoreWriteError on a full disk, a read-only path or missing permission.
    """
    with write_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name if alone else uuid.uuid4().hex}{PARTIAL_SUFFIX}")
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def write_errors(what: str) -> Iterator[None]:
    """Turns the operating system's refusals to write or lock `what` into a StoreWriteError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise StoreWriteError(
                f"{what} cannot be locked: {error.strerror}, and without locks two writers could not be kept apart. "
                "Mount the file system with them (Lustre: flock), or keep the store on another one."
            ) from error
        if error.errno not in _CANNOT_WRITE:
            raise
        raise StoreWriteError(
            f"cannot write {what}: {error.strerror}. Everything stored before is intact. "
            "Make room (df -h, quota) or make the path writable, then run the same command again."
        ) from error
