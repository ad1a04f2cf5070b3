"""An eye on work that may never end: the process in which it hangs is given up."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from types import TracebackType

from distributed import get_worker

LOGGER = logging.getLogger(__name__)

_LOOKS_PER_LIMIT = 10


class Watch:
    """Kills this process where `alive` is not called for `limit_s` seconds; 0 means never.

    A thread that hangs in a library cannot be ended in any other way. Used where somebody else takes the work
    up again: in a worker process, whose nanny starts another one, or in a child of it.
    """

    def __init__(self, limit_s: float, *, what: str) -> None:
        self.limit_s = limit_s
        self.what = what
        self._last = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name=f"watch {what}", daemon=True)

    def alive(self) -> None:
        """Says that the work has made progress."""
        self._last = time.monotonic()

    def __enter__(self) -> Watch:
        if self.limit_s:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()

    def _look(self) -> None:
        while not self._over.wait(self.limit_s / _LOOKS_PER_LIMIT):
            if time.monotonic() - self._last > self.limit_s:
                LOGGER.error("%s: no progress for %g s; this process is given up", self.what, self.limit_s)
                os.kill(os.getpid(), signal.SIGKILL)


def may_die() -> bool:
    """Whether this thread works for a Dask worker in a process of its own that a nanny replaces."""
    try:
        return bool(get_worker().nanny)
    except ValueError:
        return False
