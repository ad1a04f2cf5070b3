"""An eye on work that may never end: the process in which it hangs is given up."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import TracebackType

from distributed import get_worker

LOGGER = logging.getLogger(__name__)

_LOOKS_PER_LIMIT = 10
_GIVEN_UP = "%s: no progress for %g s; this process is given up. Where tiles need longer, raise tile_timeout_s."


class Watch:
    """Kills this process where `alive` is not called for `limit_s` seconds, or for longer while `allowing` more.

    With `limit_s` 0 it never does.

    A thread that hangs in a library cannot be ended in any other way. Used where somebody else takes the work
    up again: in a worker process, whose nanny starts another one, or in a child of it.
    """

    def __init__(self, limit_s: float, *, what: str) -> None:
        self.limit_s = limit_s
        self.what = what
        self._allowed_s = limit_s
        self._last = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name=f"watch {what}", daemon=True)

    def alive(self) -> None:
        """Says that the work has made progress."""
        self._last = time.monotonic()

    def is_overdue(self) -> bool:
        """Whether there was no progress for longer than the work may take."""
        return time.monotonic() - self._last > self._allowed_s

    @contextlib.contextmanager
    def allowing(self, seconds: float) -> Iterator[None]:
        """Work in which a step may take `seconds` where that is more than the limit, such as a batch of tiles."""
        self._allowed_s = max(self.limit_s, seconds)
        self.alive()
        try:
            yield
        finally:
            self.alive()
            self._allowed_s = self.limit_s

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
            if self.is_overdue():
                LOGGER.error(_GIVEN_UP, self.what, self._allowed_s)
                os.kill(os.getpid(), signal.SIGKILL)


def may_die() -> bool:
    """Whether this thread works for a Dask worker in a process of its own that a nanny replaces."""
    try:
        return bool(get_worker().nanny)
    except ValueError:
        return False
