"""Tiles of a folder into a cohort store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fintune_xr import names as n
from fintune_xr.pipelines.console import Steps, progress, say
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.ingest.tiles import IngestReport, ingest_tiles, open_or_create
from fintune_xr.store.raw.layouts import Layout, choose_layout
from fintune_xr.store.raw.scan import check_sizes, left_out_table, scan, scan_table


@dataclass(frozen=True, slots=True)
class Planned:
    """What an ingest would do: tiles by donor and marker, what would be left out and why, ignored files."""

    tiles: pd.DataFrame
    left_out: pd.DataFrame
    ignored: Mapping[str, int]


def ingest(
    source: str | Path, store: str | Path, *, layout: str | Layout = "rosmap", workers: int | None = None,
    verify: bool = False, kind: str | None = None, title: str = "", binning: int = 1, cut: int = 0,
) -> IngestReport:  # fmt: skip
    """Appends the tiles under `source` that `store` lacks; files that cannot be used are quarantined.

    `layout` is a name or a record from `choose_layout`. Run it again to continue after an interruption or
    to add donors. `verify` reads files of stored tiles again and compares their digests. `kind` is the layout's;
    micrographs may be stored with `binning` times `binning` pixels joined into their mean, and patches of stained
    tissue be cut into tiles of about `cut` px, without loss.

    Raises UnknownNameError for a layout, FintuneValueError where nothing fits, sizes differ too much, or the store
    was made with another binning or cut.
    """
    chosen = choose_layout(layout) if isinstance(layout, str) else layout
    found = scan(source, chosen, binning=binning, cut=cut)
    cohort = open_or_create(store, found, kind=kind, title=title)
    with progress("ingest", len(found.tiles)) as advance:
        report = ingest_tiles(cohort, found, workers=workers, verify=verify, progress=Steps(advance))
    _say_sizes(cohort)
    return report


def _say_sizes(cohort: Cohort) -> None:
    """Says where pixels of several sizes are in one store: particles of one kind are of several sizes in px then."""
    images = cohort.images(lazy=False)
    known = images[n.PIXEL_SIZE_A].values if n.PIXEL_SIZE_A in images.coords else np.empty(0)
    sizes = sorted({f"{size:.4g}" for size in known if size > 0}, key=float)
    if len(sizes) > 1:
        say(
            f"ingest: stored pixels are of {len(sizes)} sizes, {', '.join(sizes)} angstrom, so particles of one kind "
            "differ in px. One store for each size is easier to learn from."
        )


def plan_ingest(source: str | Path, *, layout: str | Layout = "rosmap", binning: int = 1, cut: int = 0) -> Planned:
    """What `ingest` would find under `source`; nothing is written."""
    chosen = choose_layout(layout) if isinstance(layout, str) else layout
    found = check_sizes(scan(source, chosen, binning=binning, cut=cut))
    return Planned(scan_table(found), left_out_table(found), found.ignored)
