"""A device that several blocks of one process use, the oldest first."""

from __future__ import annotations

import contextlib
import heapq
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator

_LOOK_EVERY_S = 1.0
_FINDING = threading.Lock()


class Turns:
    """One user at a time; of those who wait, the one of lowest rank is next.

    Two blocks that took turns as equals would end together, and the device would wait while both write. So the older
    one always goes first, and the younger fills the gap as it ends.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[tuple[int, int]] = []
        self._is_taken = False

    @contextlib.contextmanager
    def turn(self, rank: int, *, while_waiting: Callable[[], None]) -> Iterator[None]:
        """The device for the length of the block; `while_waiting` is called every second until then."""
        ticket = (rank, threading.get_ident())
        with self._changed:
            heapq.heappush(self._waiting, ticket)
            while self._is_taken or self._waiting[0] != ticket:
                self._changed.wait(_LOOK_EVERY_S)
                while_waiting()
            heapq.heappop(self._waiting)
            self._is_taken = True
        try:
            yield
        finally:
            with self._changed:
                self._is_taken = False
                self._changed.notify_all()


_TURNS: defaultdict[str, Turns] = defaultdict(Turns)


def turns_on(device: str) -> Turns:
    """The turns on `device` in this process, the same object each time."""
    with _FINDING:
        return _TURNS[device]
