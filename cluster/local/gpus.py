"""One worker process for each GPU of this machine, by dask-cuda."""

from __future__ import annotations

from typing import Any, Final

from distributed import LocalCluster

from fintune_xr.cluster.local.restarts import Starts, hopeless
from fintune_xr.cluster.profile import Profile
from fintune_xr.errors import DeviceError, MissingPackageError

_ABOUT_DEVICES: Final = ("NVML", "CUDA_VISIBLE_DEVICES", "visible devices", "cuda", "Number of workers")


def cuda_cluster(profile: Profile, starts: Starts) -> LocalCluster:
    """A LocalCUDACluster of as many GPUs as `profile` asks for, all visible ones by default.

    Raises DeviceError where there are fewer, MissingPackageError without dask-cuda, ClusterError where worker
    processes end before they have registered.
    """
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise MissingPackageError(
            f"profile kind cuda needs dask-cuda and cuda-bindings ({error}). Run: pip install 'fintune-xr[cuda]'"
        ) from error
    try:
        cluster = LocalCUDACluster(**_parameters(profile), worker_class=starts.nanny())
    except Exception as error:
        if _is_about_devices(error):
            raise DeviceError(
                f"profile kind cuda asks for {profile.workers or 'all'} GPU(s) of this machine, which cannot be had: "
                f"{type(error).__name__}: {error}. Check nvidia-smi and CUDA_VISIBLE_DEVICES, or use another --cluster."
            ) from error
        if starts.last_words:
            raise hopeless(starts) from error
        raise
    return cluster


def _parameters(profile: Profile) -> dict[str, Any]:
    return {
        "n_workers": profile.workers or None,
        "threads_per_worker": profile.n_threads,
        "memory_limit": profile.memory_limit,
        # It concerns objects that Dask stores; results here are small, and torch keeps its memory itself.
        "device_memory_limit": 0,
        "resources": profile.resources,
        "dashboard_address": "127.0.0.1:0" if profile.dashboard else None,
        "host": "127.0.0.1",
    }


def _is_about_devices(error: Exception) -> bool:
    """dask-cuda has no error of its own for this: NVML's errors and two ValueErrors about CUDA_VISIBLE_DEVICES."""
    text = f"{type(error).__name__} {error}"
    return any(word in text for word in _ABOUT_DEVICES)
