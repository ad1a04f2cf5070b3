"""Workers on this machine, without GPUs of their own."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from distributed import LocalCluster

from fintune_xr.cluster.local.restarts import Starts, hopeless
from fintune_xr.cluster.profile import Profile

LOGGER = logging.getLogger(__name__)

_SECONDS_TO_CLOSE = 30.0


def local_cluster(profile: Profile, starts: Starts) -> LocalCluster:
    """Threads of this process, or worker processes, as `profile` says.

    Raises ClusterError where processes end before they have registered.
    """
    if profile.kind == "threads":
        return LocalCluster(
            n_workers=1, threads_per_worker=profile.n_workers, processes=False, memory_limit=0, **_dashboard(profile)
        )
    try:
        return LocalCluster(
            n_workers=profile.n_workers, threads_per_worker=1, processes=True, memory_limit=profile.memory_limit,
            worker_class=starts.nanny(), host="127.0.0.1", **_dashboard(profile),
        )  # fmt: skip
    except RuntimeError as error:
        if starts.last_words:
            raise hopeless(starts) from error
        raise


@contextlib.contextmanager
def close_after(cluster: LocalCluster) -> Iterator[None]:
    """Closes the cluster in the end.

    Dask waits for ever for a worker that was killed while it started; what is stored needs none of them.
    """
    try:
        yield
    finally:
        try:
            cluster.close(timeout=_SECONDS_TO_CLOSE)
        except TimeoutError:
            LOGGER.warning("workers did not end within %g s; they end with this process", _SECONDS_TO_CLOSE)


def _dashboard(profile: Profile) -> dict[str, str | None]:
    return {"dashboard_address": "127.0.0.1:0" if profile.dashboard else None}
