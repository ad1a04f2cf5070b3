"""What the steps need to know about the workers of a cluster profile."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from fintune_xr.cluster.profile import Profile, load_profile
from fintune_xr.errors import DeviceError, FintuneValueError
from fintune_xr.models.devices import AUTO, CPU, resolve_device

# Instead of a profile: the process that gives the command does the work itself.
HERE: Final = ""
THREADS: Final = "threads"
_PREFIX: Final = "cluster."
_CUDA: Final = "cuda"


def profile_and_rest(cluster: str, overrides: Sequence[str]) -> tuple[Profile, list[str]]:
    """The profile `cluster` with those of `overrides` that begin with `cluster.`, and the other overrides.

    Raises UnknownNameError for a profile, SettingsError for a setting that no profile has.
    """
    ours, rest = of_cluster(overrides)
    return load_profile(cluster, tuple(one.removeprefix(_PREFIX) for one in ours)), rest


def of_cluster(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those of `overrides` that begin with `cluster.`, and the others."""
    ours = [one for one in overrides if one.startswith(_PREFIX)]
    return ours, [one for one in overrides if not one.startswith(_PREFIX)]


def device_on(profile: Profile, asked: str) -> str:
    """`cpu` or `cuda:N` as the workers of `profile` name the device `asked`.

    Workers with a GPU see one, so that `auto` is never the CPU there. On this machine it is looked whether the device
    exists; workers elsewhere look themselves, before their first tile.

    Raises DeviceError for a device that the workers lack, FintuneValueError for what is no device.
    """
    if not profile.is_remote:
        return resolve_device(_CUDA if profile.has_gpu and asked == AUTO else asked)
    if asked not in (AUTO, CPU) and re.fullmatch(r"cuda(:0)?", asked) is None:
        raise FintuneValueError(f"no device {asked!r} in a job: write cpu, auto, or cuda for the one GPU that it has")
    if asked == CPU or (asked == AUTO and not profile.has_gpu):
        return CPU
    if not profile.has_gpu:
        raise DeviceError(
            f"device {asked!r} was asked for, but jobs of this profile get no GPU. "
            "Use --cluster slurm-cuda, or set cluster.slurm.gres=gpu:1."
        )
    return f"{_CUDA}:0"
