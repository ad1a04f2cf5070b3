"""Which stored scores a report shows, and how it says that it leaves some out."""

from __future__ import annotations

import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.report.contents import Stale
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.depends_on import tiles_in
from fintune_xr.store.runs.picks import picked_names
from fintune_xr.store.split import ALL
from fintune_xr.text import texts


def evaluated_part(cohort: Cohort) -> str:
    """The part of the split whose scores are shown: test where it was evaluated, else another; empty for none.

    A part that has no tiles any more comes last: nothing could make its scores anew.
    """
    stored = [part for part in (n.TEST, n.VAL, n.TRAIN, ALL) if cohort.has(f"{n.METRICS}/{part}")]
    return next((part for part in stored if tiles_in(cohort, part)), stored[0] if stored else "")


def stale_scores(cohort: Cohort, part: str, found: xr.Dataset, reason: str) -> Stale:
    """What is said of scores of a part that are left out."""
    known = {*cohort.run_names(), *picked_names(cohort)}
    runs = "".join(f" --run {run}" for run in texts(found[n.RUN]) if run in known)
    return Stale(f"scores of part {part}", reason, f"fintune-xr evaluate STORE{runs} --split {part}")
