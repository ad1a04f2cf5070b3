"""A folder whose file system refuses readings when it is told to."""

from __future__ import annotations

import errno
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

FAULTS: list[Callable[[], OSError]] = [
    lambda: ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    lambda: TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
    lambda: PermissionError(errno.EACCES, "Permission denied"),
    lambda: OSError(errno.ESTALE, "Stale file handle"),
    lambda: OSError(errno.ENOTCONN, "Transport endpoint is not connected"),
    lambda: OSError(errno.EMFILE, "Too many open files"),
    lambda: OSError(errno.EIO, "Input/output error"),
]


class Mount:
    """A file system below a folder that refuses readings: of those from number `first` on, `most` of them."""

    def __init__(self) -> None:
        self.root = ""
        self.first = self.most = self.n_readings = 0
        self.fault = FAULTS[0]
        self._lock = threading.Lock()
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        is_reading = event in ("os.listdir", "os.scandir") or (event == "open" and arguments[1] in ("r", "rb"))
        if not self.root or not is_reading or not str(arguments[0]).startswith(self.root):
            return
        with self._lock:
            self.n_readings += 1
            refused = self.first <= self.n_readings < self.first + self.most
        if refused:
            raise self.fault()

    def during(self, root: Path, call: Callable[[], Any], *, first: int = 1, most: int = 0) -> Any:
        """What `call` gives while readings of whatever begins with the path `root` are refused."""
        self.first, self.most, self.n_readings, self.root = first, most, 0, str(root)
        try:
            return call()
        finally:
            self.root = ""
