"""Options of `ingest` that are for OCT volumes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from fintune_xr.pipelines.classification.ingest import VolumeRequest


@dataclass(frozen=True)
class Volumes:
    """How OCT volumes are found and stored."""

    grid: Annotated[
        tuple[int, int, int] | None,
        Parameter(help="Lengths z y x that volumes are brought to; default 64 384 384 for ai-readi, else their own."),
    ] = None
    axes: Annotated[str, Parameter(help="What the axes of arrays and NIfTI are, e.g. yxz.")] = "zyx"
    participants: Annotated[
        str | None, Parameter(help="Table of participants; default: participants.tsv in SOURCE.")
    ] = None
    where: Annotated[
        tuple[str, ...],
        Parameter(help="Rows of the manifest to take, as COLUMN=VALUE.", consume_multiple=True, negative=""),
    ] = ()
    limit: Annotated[int, Parameter(help="Only the first N participants of each group.")] = 0
    refresh: Annotated[bool, Parameter(help="List the bucket anew.", negative="")] = False
    cache: Annotated[Path | None, Parameter(help="Folder to keep files of a bucket in.")] = None
    cache_gb: Annotated[float, Parameter(help="Size of that folder at most.")] = 50.0
    drop_outliers: Annotated[
        bool, Parameter(help="Leave unusual volumes out; reads every file twice.", negative="")
    ] = False
    errors: Annotated[Path | None, Parameter(help="CSV file to list in what was left out.")] = None


def volume_request(volumes: Volumes | None) -> VolumeRequest | None:
    """The same as the public function takes it."""
    from fintune_xr.pipelines.classification.ingest import VolumeRequest
    from fintune_xr.store.raw.manifest import where_of

    if volumes is None:
        return None
    return VolumeRequest(
        grid=volumes.grid, axes=volumes.axes, participants=volumes.participants, where=where_of(volumes.where),
        limit=volumes.limit, refresh=volumes.refresh, cache=volumes.cache, cache_gb=volumes.cache_gb,
        drop_outliers=volumes.drop_outliers, errors=volumes.errors,
    )  # fmt: skip
