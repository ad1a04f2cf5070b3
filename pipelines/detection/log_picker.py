"""The baseline: dark blobs of every micrograph as candidates."""

from __future__ import annotations

from typing import Final

from fintune_xr import names as n
from fintune_xr.pipelines.console import progress
from fintune_xr.pixels.log_blobs import FLOOR, log_candidates
from fintune_xr.pixels.peaks import Peaks
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.provenance import provenance
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.runs.picks import write_candidates

LOG: Final = "log"


def write_log_candidates(cohort: Cohort, run: str, *, diameter_px: float) -> None:
    """Stores the dark blobs of every micrograph as `candidates/<run>`; one micrograph is in memory at a time."""
    images = cohort.images(lazy=False)
    found: list[Peaks] = []
    with progress(f"pick {run}", images.sizes[n.TILE]) as advance:
        for at in range(images.sizes[n.TILE]):
            found.append(log_candidates(tile_pixels(images, at)[0], diameter_px=diameter_px))
            advance(1)
    facts = provenance(model=LOG, diameter_px=diameter_px, floor=FLOOR)
    write_candidates(cohort, run, found, facts={n.PROVENANCE: facts})
