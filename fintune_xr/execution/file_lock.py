"""A file that one process holds at a time, and that the operating system lets go of with it, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from fintune_xr.errors import RunBusyError


@contextlib.contextmanager
def hold_file(path: Path, *, busy: str) -> Iterator[None]:
    """Holds the file, which is made where it is missing and stays.

    On a shared file system it must pass locks on between machines, as NFS and Lustre (mounted with `flock`) do; there
    the lock of a machine that has crashed is let go of some time later.

    Raises RunBusyError, saying `busy`, where another process holds it.
    """
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunBusyError(busy) from error
        yield
