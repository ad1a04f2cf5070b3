"""`with session(profile) as client:` starts the workers of a profile and stops them again."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import dask
from distributed import Client, LocalCluster

from fintune_xr.cluster.profile import Profile

# A worker that dies with the machine's memory must not take the run along: its tasks go to another one.
_CONFIG = {
    "distributed.scheduler.allowed-failures": 10,
    "distributed.worker.memory.terminate": 0.97,
    "distributed.comm.timeouts.connect": "60s",
    "distributed.admin.large-graph-warning-threshold": "50MB",
    "distributed.dashboard.link": "http://127.0.0.1:{port}/status",
}


@contextlib.contextmanager
def session(profile: Profile) -> Iterator[Client]:
    """A Dask client of the workers that `profile` asks for; they stop when the block ends."""
    with dask.config.set(_CONFIG), _quiet(), _local(profile) as cluster, Client(cluster) as client:
        yield client


def _local(profile: Profile) -> LocalCluster:
    threads = profile.kind == "threads"
    return LocalCluster(
        n_workers=1 if threads else profile.n_workers,
        threads_per_worker=profile.n_workers if threads else 1,
        processes=not threads,
        memory_limit=0 if threads else profile.memory_limit,
        dashboard_address="127.0.0.1:0" if profile.dashboard else None,
        host=None if threads else "127.0.0.1",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Dask's own log lines about start and stop would bury the progress; its errors still come through."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Port .* is already in use")
            yield
    finally:
        logger.setLevel(before)
