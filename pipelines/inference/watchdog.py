"""An eye on work that may never end: the process in which it hangs is given up.

A thread of Python looks, and says so. It cannot where native code holds the interpreter: there faulthandler, which
needs none, ends the process a little later and prints where it hung.
"""

from __future__ import annotations

import contextlib
import faulthandler
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
# How much later the process ends by faulthandler alone: in looks, and at least in seconds.
_LOOKS_LATER, _LATER_S = 2, 1.0
_GIVEN_UP = "%s: no progress for %g s; this process is given up. Where tiles need longer, raise tile_timeout_s."
_STANDARD_ERROR = 2

# Those that are at it: a process has a single timer of faulthandler, which runs for the one that may take longest.
_AT_WORK: set[Watch] = set()
_TIMER = threading.Lock()


class Watch:
    """Kills this process where `alive` is not called for `limit_s` seconds, or for longer while `allowing` more.

    With `limit_s` 0 it never does.

    A process whose interpreter is held by native code ends a fifth of that later, or a second, with status 1 and with
    the stacks of its threads on standard error.

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
        self._wind()
        try:
            yield
        finally:
            self.alive()
            self._allowed_s = self.limit_s
            self._wind()

    def __enter__(self) -> Watch:
        if self.limit_s:
            with _TIMER:
                _AT_WORK.add(self)
            self._wind()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._wind(leaves=True)

    def _look(self) -> None:
        while not self._over.wait(self.limit_s / _LOOKS_PER_LIMIT):
            if self.is_overdue():
                LOGGER.error(_GIVEN_UP, self.what, self._allowed_s)
                os.kill(os.getpid(), signal.SIGKILL)
            self._wind()

    def ends_after_s(self) -> float:
        """Seconds without a look after which the process ends."""
        return self._allowed_s + max(_LATER_S, _LOOKS_LATER * self.limit_s / _LOOKS_PER_LIMIT)

    def _wind(self, *, leaves: bool = False) -> None:
        """Sets the timer anew, or stops it where the last one `leaves`."""
        with _TIMER:
            if self not in _AT_WORK:
                return
            if leaves:
                _AT_WORK.remove(self)
            if _AT_WORK:
                longest = max(watch.ends_after_s() for watch in _AT_WORK)
                faulthandler.dump_traceback_later(longest, exit=True, file=_STANDARD_ERROR)
            else:
                faulthandler.cancel_dump_traceback_later()


def may_die() -> bool:
    """Whether this thread works for a Dask worker in a process of its own that a nanny replaces."""
    try:
        return bool(get_worker().nanny)
    except ValueError:
        return False
