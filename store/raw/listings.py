"""Listings of buckets, kept in the user's cache folder: listing tens of thousands of keys takes minutes."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from fintune_xr.execution.whole_file import whole_file
from fintune_xr.store.raw.sources import Place, is_url, list_files
from fintune_xr.store.zarr_io.object_storage import endpoint


@dataclass(frozen=True, slots=True)
class Listing:
    """Paths relative to a source; `age_s` is how long ago they were listed where that was not now."""

    paths: tuple[str, ...]
    age_s: float | None = None


def listing(source: Place, *, refresh: bool = False) -> Listing:
    """What lies under `source`: a folder is listed each time, a bucket once, until `refresh` asks for it anew.

    Raises as `list_files` does.
    """
    if not is_url(source):
        return Listing(tuple(list_files(source)))
    file = listing_file(str(source))
    kept = None if refresh else _kept(file, str(source))
    if kept is not None:
        return kept
    paths = list_files(source)
    _keep(file, {"source": str(source), "asked": _asked(), "listed": time.time(), "paths": paths})
    return Listing(tuple(paths))


def listing_file(source: str) -> Path:
    """Where the listing of a source is kept."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "fintune-xr" / "listings" / f"{hashlib.sha256(source.rstrip('/').encode()).hexdigest()[:32]}.json"


def _kept(file: Path, source: str) -> Listing | None:
    try:
        told = json.loads(file.read_text())
        paths, listed = tuple(map(str, told["paths"])), float(told["listed"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    # A bucket of that name elsewhere is another one; releases before kept no endpoint, and those are listed anew.
    is_same = told.get("source") == source and told.get("asked", "") == _asked()
    return Listing(paths, time.time() - listed) if is_same else None


def _asked() -> str:
    """A digest of the endpoint, which itself is written nowhere; empty for the provider's own."""
    return hashlib.sha256(endpoint().encode()).hexdigest()[:16] if endpoint() else ""


def _keep(file: Path, what: dict[str, object]) -> None:
    with whole_file(file) as place:
        place.write_text(json.dumps(what))
