"""A study's volumes, from a folder or a bucket, into a store."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pandas as pd

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.pipelines.console import say, steps
from fintune_xr.store.cohort import Cohort, store_exists
from fintune_xr.store.ingest.new_tiles import Mapper
from fintune_xr.store.ingest.participants import (
    FILE_NAME,
    Participants,
    find_participants,
    read_participants,
    store_participants,
    study_groups,
)
from fintune_xr.store.ingest.tiles import IngestReport
from fintune_xr.store.ingest.volume_summary import VolumeSummary, store_summary, unwanted_outliers, volume_summary
from fintune_xr.store.ingest.volumes import (
    STUDY_GRID,
    Grid,
    VolumeIngest,
    device_of,
    ingest_volumes,
    open_or_create_volumes,
    read_headers,
)
from fintune_xr.store.raw.fetching import Staging
from fintune_xr.store.raw.layouts import Layout
from fintune_xr.store.raw.levels import Named, level_lines
from fintune_xr.store.raw.pairing import LeftOut
from fintune_xr.store.raw.readers.volume_header import VolumeHeader
from fintune_xr.store.raw.readers.volumes import NIFTI_SUFFIXES, ZYX, Reading, suffix_of
from fintune_xr.store.raw.volume_scan import AI_READI, Person, Query, VolumeScan, scan_volumes
from fintune_xr.text import texts

ERROR_COLUMNS: Final = ("participant_id", "key", "exception")


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeRequest:
    """What is asked of an ingest of volumes, as the command line has it.

    `grid` None is the study's for its layout, else the files' own size. `errors` is a CSV file that lists what was left
    out, `cache` a folder that files of a bucket are kept in, up to `cache_gb`.
    """

    grid: Grid | None = None
    axes: str = ZYX
    participants: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    limit: int = 0
    refresh: bool = False
    cache: Path | None = None
    cache_gb: float = 50.0
    drop_outliers: bool = False
    errors: Path | None = None
    workers: int | None = None
    verify: bool = False
    title: str = ""


def ingest_study(
    source: str | Path, store: str | Path, layout: Layout, request: VolumeRequest, *, mapper: Mapper | None = None
) -> IngestReport:
    """Appends the volumes under `source` that `store` lacks, and stores the table of participants; `mapper` has workers
    elsewhere read them.

    Says how files were found, and sums up what the store holds then.

    Raises FintuneValueError as the scan, the table of participants and the store do.
    """
    people, found, how = _asked(source, layout, request, store_exists(store))
    _say_levels(found)
    cohort = open_or_create_volumes(store, found, how, title=request.title)
    if people is not None:
        store_participants(cohort, people)
    with steps("ingest", unit="volumes") as progress:
        report = ingest_volumes(
            cohort, found, how,
            unwanted=(lambda fresh: unwanted_outliers(cohort, fresh)) if request.drop_outliers else None,
            progress=progress, mapper=mapper,
        )  # fmt: skip
    for line in orientation_lines(cohort):
        say(f"ingest: {line}")
    if request.errors is not None:
        write_errors(request.errors, report.left_out)
    if cohort.images_group().n_tiles:
        summary = volume_summary(cohort, study_groups(cohort))
        store_summary(cohort, summary)
        say_summary(summary)
    return report


def plan_study(
    source: str | Path, layout: Layout, request: VolumeRequest
) -> tuple[pd.DataFrame, pd.DataFrame, Mapping[str, int]]:
    """A row for each device, one for each file or participant that would be left out, and counts of other files.

    Headers are read, and nothing is written.
    """
    _, found, how = _asked(source, layout, request, False)
    _say_levels(found)
    rows, left_out = [], list(found.left_out)
    for file, header in read_headers(found, how):
        if isinstance(header, VolumeHeader):
            rows.append((device_of(file, header), file.donor, *header.shape))
        else:
            left_out.append(LeftOut(file.path, file.donor, file.marker, header, file.tile))
    return _sizes(rows), _left_out_frame(left_out), found.ignored


def orientation_lines(cohort: Cohort) -> list[str]:
    """What must be known of volumes whose files tell of different orientations; nothing where all tell the same."""
    images = cohort.images(lazy=False)
    if n.ORIENTATION not in images:
        return []
    is_nifti = [suffix_of(str(path)) in NIFTI_SUFFIXES for path in images[n.SOURCE].values[:, 0]]
    # NIfTI without an orientation lack what others have; other formats hardly ever tell one.
    told = Counter(one for one in zip(is_nifti, texts(images[n.ORIENTATION]), strict=True) if any(one))
    if len({letters for _, letters in told}) < 2:
        return []
    to = str(images.attrs.get(n.ORIENTATION) or "")
    listed = [
        f"{number} {letters or 'NIfTI that do not tell'}, {_what_is_done(own, letters, to)}"
        for (own, letters), number in told.items()
    ]
    return [
        "volumes do not all lie alike (where z, y and x point to: R or L, A or P, S or I): "
        f"{'; '.join(listed)}. Look at one of each: a volume that is upside down is another retina to a model"
    ]


def _what_is_done(is_nifti: bool, letters: str, to: str) -> str:
    return f"turned to {to}" if is_nifti and to and letters not in ("", to) else "stored as they lie"


def write_errors(file: Path, left_out: Iterable[LeftOut]) -> Path:
    """`data_errors.csv`: a row for everything that was left out, in its order."""
    with file.open("w", newline="", encoding="utf-8") as opened:
        out = csv.writer(opened, lineterminator="\n")
        out.writerow(ERROR_COLUMNS)
        out.writerows((item.donor, item.path, item.reason) for item in left_out)
    return file


def say_summary(summary: VolumeSummary) -> None:
    """The tables of a summary, as lines."""
    for title, table in (
        ("sizes of files by device", summary.devices),
        ("scans and participants by study group and part", summary.groups),
        ("unusual volumes, which are stored all the same (--drop-outliers leaves them out)", summary.unusual),
    ):
        if len(table):
            say(f"{title}:\n{table.to_string(index=False)}")


def _asked(
    source: str | Path, layout: Layout, request: VolumeRequest, exists: bool
) -> tuple[Participants | None, VolumeScan, VolumeIngest]:
    people = read_participants(request.participants) if request.participants else find_participants(source)
    if people is None and layout.name == AI_READI:
        raise FintuneValueError(
            f"{source}: layout {AI_READI!r} needs the table of participants, which says of whom there are volumes. "
            f"Put {FILE_NAME} there, or name it with --participants."
        )
    query = Query(request.where, request.limit, request.refresh)
    found = scan_volumes(source, layout, _persons(people), query)
    # A store that exists tells its grid itself.
    default = STUDY_GRID if layout.name == AI_READI and not exists else None
    staging = Staging(request.cache, _bytes_of(request.cache_gb)) if request.cache is not None else None
    how = VolumeIngest(request.grid or default, Reading(request.axes), staging, request.workers, request.verify)
    return people, found, how


def _bytes_of(gigabytes: float) -> int:
    if not math.isfinite(gigabytes):
        raise FintuneValueError(f"--cache-gb: expected a number of gigabytes, got {gigabytes}")
    return int(gigabytes * 1e9)


def _say_levels(found: VolumeScan) -> None:
    """How files were found, the tree that was understood, and which of its levels look wrong."""
    named = [Named(one.tile, one.donor, one.marker, one.path) for one in found.files]
    for line in (found.listed, *level_lines(named, found.layout)):
        say(f"ingest: {line}")


def _persons(people: Participants | None) -> dict[str, Person] | None:
    if people is None:
        return None
    return {
        one.id: Person(one.study_group, one.recommended_split, one.retinal_oct) for one in people.people.values()
    }  # fmt: skip


def _sizes(rows: Sequence[tuple[str, str, int, int, int]]) -> pd.DataFrame:
    sides = (n.DEPTH, n.HEIGHT, n.WIDTH)
    table = pd.DataFrame(list(rows), columns=[n.MARKER, n.DONOR, *sides])
    grouped = table.groupby(n.MARKER, sort=True)
    sizes = {f"{side}_{what}": grouped[side].agg(what) for side in sides for what in ("min", "median", "max")}
    return pd.DataFrame(
        {"volumes": grouped.size(), "participants": grouped[n.DONOR].nunique(), **sizes}
    ).reset_index()  # fmt: skip


def _left_out_frame(left_out: Sequence[LeftOut]) -> pd.DataFrame:
    rows = [(item.path, item.donor, item.marker, item.tile, item.reason) for item in left_out]
    return pd.DataFrame(rows, columns=[n.PATH, n.DONOR, n.MARKER, n.TILE, n.REASON])


def quarantine_list(cohort: Cohort) -> list[LeftOut]:
    """Everything that the store has in quarantine, for `write_errors`."""
    stored = cohort.quarantine()
    columns = [[str(value) for value in stored[name].values] for name in (n.PATH, n.DONOR, n.MARKER, n.REASON, n.TILE)]
    return [LeftOut(*row) for row in zip(*columns, strict=True)]
