"""Tiles of a folder into a cohort store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from fintune_xr.cluster.profile import load_profile
from fintune_xr.cohort_kinds import OCT
from fintune_xr.errors import FintuneValueError
from fintune_xr.pipelines.classification.ingest import VolumeRequest, ingest_study, plan_study
from fintune_xr.pipelines.console import Steps, progress, say
from fintune_xr.pipelines.workers.remote_calls import seen_everywhere
from fintune_xr.pipelines.workers.shard_readers import shards_on
from fintune_xr.store.ingest.pixel_sizes import told_doubts, told_sizes
from fintune_xr.store.ingest.same_bytes import told_twice
from fintune_xr.store.ingest.tiles import IngestReport, ingest_tiles, open_or_create
from fintune_xr.store.raw.layouts import Layout, choose_layout
from fintune_xr.store.raw.levels import Named, told_levels
from fintune_xr.store.raw.passed_over import told
from fintune_xr.store.raw.scan import Scan, check_sizes, left_out_table, scan, scan_table


@dataclass(frozen=True, slots=True)
class Planned:
    """What an ingest would do: tiles by donor and marker, what would be left out and why, ignored files.

    `said` are lines about the tree that was understood, and about what is odd.
    """

    tiles: pd.DataFrame
    left_out: pd.DataFrame
    ignored: Mapping[str, int]
    said: tuple[str, ...] = ()


def ingest(
    source: str | Path, store: str | Path, *, layout: str | Layout = "rosmap", workers: int | None = None,
    verify: bool = False, kind: str | None = None, title: str = "", binning: int = 1, cut: int = 0,
    volumes: VolumeRequest | None = None, cluster: str = "", overrides: Sequence[str] = (),
) -> IngestReport:  # fmt: skip
    """Appends the tiles under `source` that `store` lacks; files that cannot be used are quarantined.

    `layout` is a name or a record from `choose_layout`. Run it again to continue after an interruption or
    to add donors. `verify` reads files of stored tiles again and compares their digests. `kind` is the layout's;
    micrographs may be stored with `binning` times `binning` pixels joined into their mean, and patches of stained
    tissue be cut into tiles of about `cut` px, without loss. `volumes` says how volumes are found and stored.

    With `cluster`, a profile's name or a YAML file, its workers read tiles and write whole shards, with the same bytes;
    they have to see `source` and `store`, a folder, under the same paths.

    Raises UnknownNameError for a layout, FintuneValueError where nothing fits, sizes differ too much, or the store
    was made with another binning or cut.
    """
    chosen = choose_layout(layout) if isinstance(layout, str) else layout
    profile = load_profile(cluster, tuple(overrides)) if cluster else None
    if profile is not None:
        source, store = seen_everywhere(source), seen_everywhere(store)
    with shards_on(profile) as mapper:
        if chosen.kind == OCT.name:
            asked = replace(volumes or VolumeRequest(), workers=workers, verify=verify, title=title)
            return ingest_study(source, store, chosen, asked, mapper=mapper)
        _refuse_volumes(chosen, volumes)
        found = scan(source, chosen, binning=binning, cut=cut)
        for line in _levels(found):
            say(f"ingest: {line}")
        cohort = open_or_create(store, found, kind=kind, title=title)
        with progress("ingest", len(found.tiles)) as advance:
            report = ingest_tiles(
                cohort, found, workers=workers, verify=verify, progress=Steps(advance), mapper=mapper
            )  # fmt: skip
    for line in [*told(found.ignored), *told_doubts(found.tiles), *told_sizes(cohort), *told_twice(cohort)]:
        say(f"ingest: {line}")
    return report


def _refuse_volumes(layout: Layout, volumes: VolumeRequest | None) -> None:
    if volumes is not None and volumes != VolumeRequest():
        raise FintuneValueError(
            f"layout {layout.name!r} is of tiles that are no volumes: --grid, --axes, --participants, --where, "
            "--limit, --cache, --errors, --refresh and --drop-outliers are for layouts ai-readi, volumes and heyex."
        )


def plan_ingest(
    source: str | Path, *, layout: str | Layout = "rosmap", binning: int = 1, cut: int = 0,
    volumes: VolumeRequest | None = None,
) -> Planned:  # fmt: skip
    """What `ingest` would find under `source`; nothing is written."""
    chosen = choose_layout(layout) if isinstance(layout, str) else layout
    if chosen.kind == OCT.name:
        return Planned(*plan_study(source, chosen, volumes or VolumeRequest()))
    _refuse_volumes(chosen, volumes)
    found = check_sizes(scan(source, chosen, binning=binning, cut=cut))
    said = (*_levels(found), *told_doubts(found.tiles))
    return Planned(scan_table(found), left_out_table(found), found.ignored, said)


def _levels(found: Scan) -> list[str]:
    """The tree that was understood, and which of its levels look wrong."""
    return told_levels(
        [Named(one.tile, one.donor, one.marker, str(one.planes[0])) for one in found.tiles], found.layout
    )
