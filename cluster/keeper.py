"""The thread that looks after a session's jobs while the session's owner waits for results."""

from __future__ import annotations

import threading
import time
from typing import Any, Final

from distributed import Client, Future

from fintune_xr.cluster.fleet import Fleet
from fintune_xr.cluster.queue import queued_jobs
from fintune_xr.errors import ClusterError

_SECONDS_BETWEEN_WORDS: Final = 60.0


class Keeper:
    """Reconciles a fleet every few seconds; a fault that it meets ends the work that waits in `client`."""

    def __init__(self, fleet: Fleet, client: Client) -> None:
        self.fleet = fleet
        self.client = client
        self.fault: ClusterError | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="jobs", daemon=True)
        self._said = 0.0
        self._is_deaf = False

    def wait_for_first_worker(self) -> None:
        """Returns once a worker has registered.

        Raises ClusterError where the jobs end without one, or none starts within the profile's limit.
        """
        asked = self.fleet.profile.slurm
        began = time.monotonic()
        while not self.fleet.has_ever_registered:
            self.look()
            waited = time.monotonic() - began
            if waited > asked.queue_s:
                raise ClusterError(
                    f"no job of this profile started within {asked.queue_s:g} s (queue: {self.fleet.waiting_for()}). "
                    "Ask for less, for another partition, or wait longer: slurm.queue_s."
                )
            if waited - self._said >= _SECONDS_BETWEEN_WORDS:
                self._said = waited
                self.fleet.report(f"waiting for a worker for {waited:.0f} s (queue: {self.fleet.waiting_for()})")
            self._over.wait(min(asked.interval_s, 1.0))

    def look(self) -> None:
        """One look at the queue, and what follows from it; nothing follows where squeue does not answer."""
        try:
            listing = queued_jobs(self.fleet.job_name)
        except ClusterError as error:
            # Not a sign that jobs are gone: a controller that restarts must not have them all submitted again.
            if not self._is_deaf:
                self.fleet.report(f"{error}; jobs are left as they are until squeue answers")
            self._is_deaf = True
            return
        self._is_deaf = False
        self.fleet.cluster.sync(self.fleet.reconcile, listing)

    def start(self) -> None:
        """Begins to look every few seconds."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the looking."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _keep(self) -> None:
        while not self._over.wait(self.fleet.profile.slurm.interval_s):
            try:
                self.look()
            except ClusterError as fault:
                self.fault = fault
                self._give_up()
                return
            except Exception as error:  # noqa: BLE001 - whoever waits must not wait for ever
                if self._over.is_set():
                    return
                self.fault = ClusterError(f"looking after the jobs failed: {type(error).__name__}: {error}")
                self._give_up()
                return

    def _give_up(self) -> None:
        """Work that nobody will do any more is cancelled, so that its owner, who waits for it, wakes up.

        Again and again, because the owner may have been about to hand in more.
        """
        while True:
            pending: list[Any] = [Future(key, self.client) for key in list(self.client.futures)]
            self.client.cancel(pending, force=True)
            if self._over.wait(self.fleet.profile.slurm.interval_s):
                return
