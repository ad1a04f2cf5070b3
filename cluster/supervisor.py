"""The thread that looks after a session's workers while the session's owner waits for results."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from distributed import Client, Future

from fintune_xr.errors import ClusterError


class Keeper:
    """Calls `look` every few seconds; a fault that it meets ends the work that waits in `client`."""

    def __init__(self, look: Callable[[], None], client: Client, *, every_s: float) -> None:
        self.look = look
        self.client = client
        self.every_s = every_s
        self.fault: ClusterError | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="workers", daemon=True)

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Looks until the block ends; raises the fault that was met meanwhile instead of what it led to."""
        self._thread.start()
        try:
            yield
        except BaseException as error:
            if self.fault is None:
                raise
            raise self.fault from error
        finally:
            self._over.set()
            self._thread.join()

    def _keep(self) -> None:
        while not self._over.wait(self.every_s):
            try:
                self.look()
            except ClusterError as fault:
                self.fault = fault
                self._give_up()
                return
            except Exception as error:  # noqa: BLE001 - whoever waits must not wait for ever
                if self._over.is_set():
                    return
                self.fault = ClusterError(f"looking after the workers failed: {type(error).__name__}: {error}")
                self._give_up()
                return

    def _give_up(self) -> None:
        """Work that nobody will do any more is cancelled, so that its owner, who waits for it, wakes up.

        Again and again, because the owner may have been about to hand in more.
        """
        while True:
            pending: list[Any] = [Future(key, self.client) for key in list(self.client.futures)]
            self.client.cancel(pending, force=True)
            if self._over.wait(self.every_s):
                return
