"""Looks at Slurm's queue, and what follows where it does not answer or no job starts."""

from __future__ import annotations

import time
from typing import Final

from fintune_xr.cluster.slurm.jobs import Fleet
from fintune_xr.cluster.slurm.queue import queued_jobs
from fintune_xr.errors import ClusterError

_SECONDS_BETWEEN_WORDS: Final = 60.0


class Lookout:
    """Tells a fleet what squeue says of its jobs."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._said = 0.0
        # Since when squeue has not answered and no worker has been there.
        self._lost: float | None = None

    def wait_for_first_worker(self) -> None:
        """Returns once a worker has registered.

        Raises ClusterError where the jobs end without one, or none starts within the profile's limit.
        """
        asked = self.fleet.profile.slurm
        began = time.monotonic()
        while not (self.fleet.has_ever_registered or self.fleet.has_workers()):
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
            time.sleep(asked.interval_s)

    def look(self) -> None:
        """One look at the queue, and what follows from it; where squeue does not answer, nothing for a long time.

        Raises ClusterError where it has not answered for `silence_s` without any worker, or jobs gave none too often.
        """
        try:
            listing = queued_jobs(self.fleet.job_name)
        except ClusterError as error:
            # Not a sign that jobs are gone: a controller that restarts must not have them all submitted again.
            self._bear(error)
            return
        self._lost = None
        self.fleet.cluster.sync(self.fleet.reconcile, listing)

    def _bear(self, error: ClusterError) -> None:
        now = time.monotonic()
        if self._lost is None:
            self.fleet.report(f"{error}; jobs are left as they are until squeue answers")
        if self._lost is None or self.fleet.has_workers():
            self._lost = now
        asked = self.fleet.profile.slurm
        if now - self._lost > asked.silence_s:
            raise ClusterError(
                f"squeue has not answered for {asked.silence_s:g} s and no worker is left: {error}. What was committed "
                "stays: run the same command again when `squeue` answers, or wait longer for it: slurm.silence_s. Jobs "
                f"that are left: `scancel --name={self.fleet.job_name}`."
            )
