"""Worker processes of this machine: those that end are replaced, unless that has become hopeless."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from distributed import LocalCluster, Nanny
from distributed.core import Status

from fintune_xr.errors import ClusterError
from fintune_xr.execution.native_faults import end_of

LOGGER = logging.getLogger(__name__)

# Rounds of all workers, processes at least, and for so long: a moment without memory kills many of them at once.
_ROUNDS: Final = 3
_AT_LEAST: Final = 10
_FOR_S: Final = 60.0
_REPLACED: Final = "a worker process %s; another one takes its place, and what it was at is done again"
_ENDED: Final = (Status.closing, Status.closed, Status.failed)


class Starts:
    """Worker processes in a row that ended before they had registered, and what is known of the last one."""

    def __init__(self) -> None:
        self.failures = 0
        self.since = 0.0
        self.last_words = ""
        self.error = ""

    def nanny(self) -> type[Nanny]:
        """The class of nannies that keep this account."""
        starts = self

        class CountingNanny(Nanny):  # type: ignore[misc]
            """As Dask's, which starts another process for ever and tells nobody."""

            _known = ""

            async def instantiate(self) -> Status:
                try:
                    return await super().instantiate()
                except Exception as error:
                    starts.error = starts.last_words = f"said {type(error).__name__}: {error}"
                    raise

            def _on_worker_exit_sync(self, exitcode: int) -> None:
                # Every process that registers has an address of its own.
                address = (self.process.worker_address if self.process else "") or ""
                starts.count(exitcode, has_registered=address != self._known)
                if exitcode and self.status == Status.running and address != self._known:
                    LOGGER.warning(_REPLACED, end_of(exitcode))
                self._known = address
                super()._on_worker_exit_sync(exitcode)

        return CountingNanny

    def count(self, exitcode: int, *, has_registered: bool) -> None:
        """Takes note of the end of one process."""
        self.since = time.monotonic() if has_registered or not self.failures else self.since
        self.failures = 0 if has_registered else self.failures + 1
        error, self.error = self.error, ""
        self.last_words = ", and ".join(filter(None, (error, end_of(exitcode))))


class LocalWorkers:
    """The worker processes of a local cluster, whose number `look` brings back to `n_workers`."""

    def __init__(self, cluster: LocalCluster, starts: Starts, *, n_workers: int) -> None:
        self.cluster = cluster
        self.starts = starts
        self.n_workers = n_workers

    def look(self) -> None:
        """Replaces workers: a nanny whose worker dies while it starts gives up, and a run would wait for ever.

        Raises ClusterError once too many processes in a row ended at their start and none works.
        """
        self.cluster.sync(self._take_stock)
        lasts = time.monotonic() - self.starts.since
        if self.starts.failures >= max(_AT_LEAST, _ROUNDS * self.n_workers) and lasts >= _FOR_S:
            raise hopeless(self.starts, f"{self.starts.failures} worker processes in a row")
        # Starts those that are missing.
        self.cluster.scale(self.n_workers)

    async def _take_stock(self) -> None:
        if self.cluster.scheduler.workers:
            self.starts.failures = 0
        workers: dict[Any, Any] = self.cluster.workers
        for name in [name for name, nanny in workers.items() if nanny.status in _ENDED]:
            del workers[name]


def hopeless(starts: Starts, who: str = "a worker process") -> ClusterError:
    """The error for processes that ended at their start."""
    return ClusterError(
        f"{who} ended instead of registering for work. The last one {starts.last_words}; what it printed stands above. "
        "Most often memory is short (`dmesg` tells): set cluster.workers lower. Where they cannot start at all, "
        "--cluster threads needs none. What was committed stays: run the same command again."
    )
