"""Studies that are stored part by part: what is there says that it is unfinished, until the last part is."""

from __future__ import annotations

from fintune_xr import names as n
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.zarr_io.groups import open_writable
from fintune_xr.store.zarr_io.location import explain_write_errors


def note_study_end(cohort: Cohort, path: str) -> None:
    """Takes the note that the study stored in the group `path` is unfinished away. The caller holds the study."""
    if not cohort.has(path):
        return
    with explain_write_errors(f"{cohort.url}/{path}"):
        group = open_writable(cohort.location, path)
        if n.UNFINISHED in group.attrs:
            del group.attrs[n.UNFINISHED]
