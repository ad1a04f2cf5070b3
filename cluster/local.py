"""Workers on this machine, without GPUs of their own."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

from distributed import LocalCluster
from distributed.core import Status

from fintune_xr.cluster.profile import Profile

LOGGER = logging.getLogger(__name__)

_LOOK_EVERY_S = 5.0
_SECONDS_TO_CLOSE = 30.0
_ENDED = (Status.closing, Status.closed, Status.failed)


@contextlib.contextmanager
def local_cluster(profile: Profile) -> Iterator[LocalCluster]:
    """Threads of this process, or worker processes that are replaced when they die, as `profile` says."""
    threads = profile.kind == "threads"
    cluster = LocalCluster(
        n_workers=1 if threads else profile.n_workers,
        threads_per_worker=profile.n_workers if threads else 1,
        processes=not threads,
        memory_limit=0 if threads else profile.memory_limit,
        dashboard_address="127.0.0.1:0" if profile.dashboard else None,
        host=None if threads else "127.0.0.1",
    )
    try:
        with contextlib.nullcontext() if threads else _complete(cluster, profile.n_workers):
            yield cluster
    finally:
        _close(cluster)


def _close(cluster: LocalCluster) -> None:
    """Dask waits for ever for a worker that was killed while it started; what is stored needs none of them."""
    try:
        cluster.close(timeout=_SECONDS_TO_CLOSE)
    except TimeoutError:
        LOGGER.warning("workers did not end within %g s; they end with this process", _SECONDS_TO_CLOSE)


@contextlib.contextmanager
def _complete(cluster: LocalCluster, n_workers: int) -> Iterator[None]:
    """Replaces workers: a nanny whose worker dies while it starts gives up, and a run would wait for ever."""
    over = threading.Event()

    async def forget_ended() -> None:
        for name in [name for name, nanny in cluster.workers.items() if nanny.status in _ENDED]:
            del cluster.workers[name]

    def keep() -> None:
        while not over.wait(_LOOK_EVERY_S):
            cluster.sync(forget_ended)
            # Starts those that are missing.
            cluster.scale(n_workers)

    keeper = threading.Thread(target=keep, daemon=True, name="workers complete")
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()
