"""Workers on this machine, without GPUs of their own."""

from __future__ import annotations

from distributed import LocalCluster

from fintune_xr.cluster.profile import Profile


def local_cluster(profile: Profile) -> LocalCluster:
    """Threads of this process, or worker processes, as `profile` says."""
    threads = profile.kind == "threads"
    return LocalCluster(
        n_workers=1 if threads else profile.n_workers,
        threads_per_worker=profile.n_workers if threads else 1,
        processes=not threads,
        memory_limit=0 if threads else profile.memory_limit,
        dashboard_address="127.0.0.1:0" if profile.dashboard else None,
        host=None if threads else "127.0.0.1",
    )
