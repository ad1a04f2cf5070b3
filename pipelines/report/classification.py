"""What a report of volumes is made of: what there is, and how well runs tell classes apart."""

from __future__ import annotations

from typing import Any

from fintune_xr import names as n
from fintune_xr.analysis.figures.volumes import ShownVolume
from fintune_xr.analysis.report.classification.sections import (
    ClassContents,
    VolumeContents,
    classes_section,
    shown_order,
    volumes_section,
)
from fintune_xr.analysis.report.contents import Section, Stale
from fintune_xr.metrics.omissions import left_out_lines
from fintune_xr.pipelines.classification.evaluate import class_lines, class_table, ranks_of
from fintune_xr.pipelines.classification.leaderboard import is_floor
from fintune_xr.pipelines.classification.pretraining import pretraining_lines
from fintune_xr.pipelines.report.stale import stale_scores
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.ingest.participants import parts_not_recommended, study_groups
from fintune_xr.store.ingest.volume_summary import volume_summary
from fintune_xr.store.lineage.depends_on import doubt, tiles_in
from fintune_xr.store.split import default_part
from fintune_xr.text import texts


def volume_sections(cohort: Cohort, baseline: str) -> tuple[Section, ...]:  # noqa: ARG001
    """All sections between what went in and where the runs come from."""
    return volumes_section(_volumes(cohort)), classes_section(_classes(cohort))


def _volumes(cohort: Cohort) -> VolumeContents:
    summary = volume_summary(cohort, study_groups(cohort))
    return VolumeContents(
        summary.devices,
        summary.groups,
        summary.classes,
        summary.unusual,
        _first_of_devices(cohort),
        parts_not_recommended(cohort),
    )


def _first_of_devices(cohort: Cohort) -> tuple[ShownVolume, ...]:
    images = cohort.images(lazy=False)
    tiles, devices, sides = (texts(images[name]) for name in (n.TILE, n.MARKER, n.LATERALITY))
    chosen = [devices.index(device) for device in sorted(set(devices))]
    return tuple(ShownVolume(tiles[at], devices[at], sides[at], tile_pixels(images, at)[0]) for at in chosen)


def _classes(cohort: Cohort) -> ClassContents:
    """Scores of val and test; those that rest on something that has changed are left out, and named."""
    stored: dict[str, Any] = {}
    stale: list[Stale] = []
    for part in (n.TEST, n.VAL):
        if not cohort.has(f"{n.METRICS}/{part}"):
            continue
        found = cohort.metrics(part).load()
        reason = doubt(cohort, found, tiles_in(cohort, part))
        if reason:
            stale.append(stale_scores(cohort, part, found, reason))
        else:
            stored[part] = found
    judge = default_part(cohort) if stored else n.TEST
    parts = shown_order(list(stored), judge)
    runs = texts(stored[parts[0]][n.RUN]) if parts else []
    return ClassContents(
        {part: stored[part] for part in parts},
        {part: class_table(stored[part]) for part in parts},
        {part: (*left_out_lines(stored[part]), *class_lines(stored[part])) for part in parts},
        ranks_of(stored[parts[0]]) if parts else {},
        tuple(run for run in runs if is_floor(cohort, run)),
        pretraining_lines(cohort, n.TEST),
        tuple(stale),
    )
