"""What killed writers leave in a local store, and how it is put right: unfinished files, groups half replaced."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Final

from fintune_xr import names as n
from fintune_xr.execution.whole_file import PARTIAL_SUFFIX
from fintune_xr.store.zarr_io.location import Location

# Beginnings and endings of names under `staging`: what is being removed, the log of a run, what was moved aside.
GONE: Final = "gone-"
LOG: Final = "cells-"
OLD: Final = ".old"


def staging_prefix(path: str) -> str:
    """Beginning of the names that a group is staged under; `+` occurs in no name of a run."""
    return f"{n.STAGING}/{path.replace('/', '+')}+"


def ordering_prefix(run: str) -> str:
    """Beginning of the names under `staging` that the cells of a run are put in order under."""
    return f"ordered-{run}+"


def aside_paths(location: Location) -> Iterator[str]:
    """Paths of groups whose earlier version lies aside: a replacement goes on, or was killed."""
    for name in _staging(location):
        group, is_staged, _ = name.rpartition("+")
        if is_staged and name.endswith(OLD):
            yield group.replace("+", "/")


def recover_group(location: Location, path: str) -> None:
    """Puts back what a killed replacement of a group moved aside, and removes what it left unfinished.

    The caller must be the only one who replaces this group.
    """
    prefix = staging_prefix(path).rpartition("/")[2]
    for name in _staging(location):
        is_missing = location.size(f"{path}/zarr.json") is None
        if is_missing and name.startswith(prefix) and name.endswith(OLD):
            (location.path / n.STAGING / name).rename(location.path / path)
    sweep_staging(location, prefix)


def sweep_staging(location: Location, *prefixes: str) -> None:
    """Removes what killed writers were removing, and what they left unfinished under names with these prefixes.

    The caller must be the only one who stages under these prefixes.
    """
    for name in _staging(location):
        if name.startswith((GONE, *prefixes)):
            shutil.rmtree(location.path / n.STAGING / name, ignore_errors=True)


def leftovers(location: Location) -> list[str]:
    """Paths of all files and groups of a local store that are unfinished: of killed writers, or of those at work."""
    if not location.is_local:
        return []
    groups = [f"{n.STAGING}/{name}" for name in _staging(location) if not name.startswith(LOG)]
    files = [file.relative_to(location.path).as_posix() for file in location.path.rglob(f"*{PARTIAL_SUFFIX}")]
    return sorted([*groups, *files])


def clear_leftovers(location: Location) -> None:
    """Removes what killed writers left unfinished anywhere in the store, and puts back what they had moved aside.

    The caller must be the only writer of the store.
    """
    for path in list(aside_paths(location)):
        recover_group(location, path)
    sweep_staging(location, *(name for name in _staging(location) if not name.startswith(LOG)))
    location.sweep()


def _staging(location: Location) -> list[str]:
    """Names of the groups under `staging`, sorted."""
    folder = location.path / n.STAGING
    if not location.is_local or not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
