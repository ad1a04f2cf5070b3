"""What a cluster profile says, and where profiles are found."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import Field

from fintune_xr.errors import unknown_name
from fintune_xr.settings import Settings, load_settings


class Profile(Settings):
    """Workers that a session starts.

    `kind` is `threads` (one process) or `processes` (one worker process each); `workers` 0 means one
    for each core that this process may use.
    """

    kind: Literal["threads", "processes"] = "threads"
    workers: int = Field(0, ge=0, description="Worker processes, or threads of the one process.")
    memory_limit: str = Field(
        "auto", description="Memory of a worker process, e.g. 8GiB; auto shares what there is."
    )
    dashboard: bool = Field(True, description="Serve Dask's dashboard on a free port of this machine.")

    @property
    def n_workers(self) -> int:
        """Number of workers after `0` has been resolved on this machine."""
        return self.workers or len(os.sched_getaffinity(0))


def profile_names() -> list[str]:
    """Names of the profiles that ship with the package."""
    folder = files("fintune_xr.cluster.profiles")
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def load_profile(name: str, overrides: tuple[str, ...] = ()) -> Profile:
    """The shipped profile `name`, or the one in a YAML file at that path, with `key=value` overrides.

    Raises UnknownNameError naming the shipped profiles, SettingsError for what a file gets wrong.
    """
    if name.endswith((".yaml", ".yml")):
        return load_settings(Profile, Path(name), overrides)
    if name not in profile_names():
        raise unknown_name("cluster profile", name, [*profile_names(), "a path ending in .yaml"])
    return load_settings(Profile, Path(str(files("fintune_xr.cluster.profiles") / f"{name}.yaml")), overrides)
