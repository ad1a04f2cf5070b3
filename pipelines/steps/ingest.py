"""Tiles of a folder into a cohort store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, Unpack

import pandas as pd

from fintune_xr.cluster.profile import load_profile
from fintune_xr.cohort_kinds import OCT
from fintune_xr.errors import FintuneValueError, nearest
from fintune_xr.pipelines.classification.ingest import VolumeRequest, ingest_study, plan_study
from fintune_xr.pipelines.console import say, steps
from fintune_xr.pipelines.workers.remote_calls import shared_path
from fintune_xr.pipelines.workers.shard_readers import shards_on
from fintune_xr.pixels.z_projection import projection_text
from fintune_xr.store.ingest.pixel_sizes import doubt_lines, size_lines
from fintune_xr.store.ingest.same_bytes import twin_lines
from fintune_xr.store.ingest.tiles import IngestReport, ingest_tiles, open_or_create
from fintune_xr.store.raw.extra_files import extra_lines
from fintune_xr.store.raw.layouts import Layout, choose_layout, with_projection
from fintune_xr.store.raw.levels import Named, level_lines
from fintune_xr.store.raw.samples import listed_layout
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


class IngestOptions(TypedDict, total=False):
    """Keywords of `ingest` that say how tiles are read and stored.

    With `workers` threads (default: one for each processor) files are read; `verify` reads files of stored tiles again
    and compares their digests. A new store is of the `kind` of the layout, and has a `title`. Micrographs may be stored
    with `binning` times `binning` pixels joined into their mean, and patches of stained tissue be cut into tiles of
    about `cut` px, without loss. `z` makes one plane of stacks of fluorescence tiles: max, mean, focus (the sharpest
    plane), or the number of a plane, from 0 on; without it stacks are refused.
    """

    workers: int | None
    verify: bool
    kind: str | None
    title: str
    binning: int
    cut: int
    z: str


def ingest(
    source: str | Path, store: str | Path, *, layout: str | Layout = "rosmap", samples: str | Path = "",
    volumes: VolumeRequest | None = None, cluster: str = "", overrides: Sequence[str] = (),
    **options: Unpack[IngestOptions],
) -> IngestReport:  # fmt: skip
    """Appends the tiles under `source` that `store` lacks; files that cannot be used are quarantined.

    `layout` is a name or a record from `choose_layout`; `samples` is a table of the files under `source` (columns path,
    donor, and marker, tile, channel, split, mpp as needed) that stands in place of its patterns.

    Run it again to continue after an interruption or to add donors. `volumes` says how volumes are found and stored,
    `options` are the keywords of `IngestOptions`.

    With `cluster`, a profile's name or a YAML file, its workers read tiles and write whole shards, with the same bytes;
    they have to see `source` and `store`, a folder, under the same paths.

    Raises UnknownNameError for a layout, FintuneValueError where nothing fits, a table of samples cannot be used, sizes
    differ too much, or the store was made with another binning, cut or `z`; TypeError for a keyword that is none.
    """
    _check(options)
    workers, verify, title = options.get("workers"), options.get("verify", False), options.get("title", "")
    profile = load_profile(cluster, tuple(overrides)) if cluster else None
    if profile is not None:
        source, store = shared_path(source), shared_path(store)
    chosen = _chosen(layout, samples, source, options.get("z", ""))
    with shards_on(profile) as mapper:
        if chosen.kind == OCT.name:
            return ingest_study(source, store, chosen, _asked(volumes or VolumeRequest(), options), mapper=mapper)
        _refuse_volumes(chosen, volumes)
        found = scan(source, chosen, binning=options.get("binning", 1), cut=options.get("cut", 0))
        for line in _levels(found):
            say(f"ingest: {line}")
        cohort = open_or_create(store, found, kind=options.get("kind"), title=title)
        with steps("ingest") as progress:
            report = ingest_tiles(cohort, found, workers=workers, verify=verify, progress=progress, mapper=mapper)
    for line in [*extra_lines(found.ignored), *doubt_lines(found.tiles), *size_lines(cohort), *twin_lines(cohort)]:
        say(f"ingest: {line}")
    return report


def _check(options: IngestOptions) -> None:
    known = list(IngestOptions.__annotations__)
    for word in options.keys() - set(known):
        hint = nearest(word, known) or f" It knows {', '.join(known)}."
        raise TypeError(f"ingest() got an unexpected keyword argument {word!r}.{hint}")
    workers = options.get("workers")
    if workers is not None and workers < 0:
        raise FintuneValueError(f"--workers: expected 0 (one for each processor) or more, got {workers}")


def _asked(volumes: VolumeRequest, options: IngestOptions) -> VolumeRequest:
    """`volumes` with those of `options` that were given; what only `volumes` says stays."""
    return replace(
        volumes,
        workers=options.get("workers", volumes.workers),
        verify=options.get("verify", volumes.verify),
        title=options.get("title", volumes.title),
    )


def _chosen(layout: str | Layout, samples: str | Path, source: str | Path, z: str) -> Layout:
    chosen = choose_layout(layout) if isinstance(layout, str) else layout
    chosen = listed_layout(chosen, samples, source) if samples else chosen
    return with_projection(chosen, z) if z else chosen


def _refuse_volumes(layout: Layout, volumes: VolumeRequest | None) -> None:
    if volumes is not None and volumes != VolumeRequest():
        raise FintuneValueError(
            f"layout {layout.name!r} is of tiles that are no volumes: --grid, --axes, --participants, --where, "
            "--limit, --cache, --errors, --refresh and --drop-outliers are for layouts ai-readi, volumes and heyex."
        )


def plan_ingest(
    source: str | Path, *, layout: str | Layout = "rosmap", binning: int = 1, cut: int = 0, samples: str | Path = "",
    z: str = "", volumes: VolumeRequest | None = None,
) -> Planned:  # fmt: skip
    """What `ingest` would find under `source`; nothing is written."""
    chosen = _chosen(layout, samples, source, z)
    if chosen.kind == OCT.name:
        return Planned(*plan_study(source, chosen, volumes or VolumeRequest()))
    _refuse_volumes(chosen, volumes)
    found = check_sizes(scan(source, chosen, binning=binning, cut=cut))
    said = (*_levels(found), *doubt_lines(found.tiles))
    return Planned(scan_table(found), left_out_table(found), found.ignored, said)


def _levels(found: Scan) -> list[str]:
    """The tree that was understood, and which of its levels look wrong."""
    tiles, how = found.tiles, found.layout.z
    stacks = [f"each tile is {projection_text(how, [one.stack for one in tiles])}"] if how and tiles else []
    named = [Named(one.tile, one.donor, one.marker, str(one.planes[0])) for one in tiles]
    return [*level_lines(named, found.layout), *stacks]
