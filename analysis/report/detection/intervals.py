"""What the intervals of scores of particles are over, as it is stored and as it is said."""

from __future__ import annotations

from typing import Final

import xarray as xr

from fintune_xr import names as n
from fintune_xr.metrics.donor_tests import MIN_DONORS
from fintune_xr.metrics.intervals import STUDENT_T
from fintune_xr.text import texts

RESAMPLED: Final = "resampled"
"""Attribute of stored scores: donor, tile, or empty where there are no intervals. Older scores are over tiles."""


def interval_line(scores: xr.Dataset) -> str:
    """In one sentence, what the intervals of the stored scores are over, and how many of them there are."""
    unit = scores.attrs.get(RESAMPLED, n.TILE if scores.sizes[n.TILE] > 1 else "")
    n_donors = len(set(texts(scores[n.DONOR])))
    n_tiles = scores.sizes[n.TILE]
    if scores.attrs.get(n.INTERVAL_METHOD) != STUDENT_T and unit:
        return "Intervals: percentiles of a bootstrap, as older stores hold them, too narrow. Run evaluate again."
    too_few = f" There are none below {MIN_DONORS}." if (n_donors if unit == n.DONOR else n_tiles) < MIN_DONORS else ""
    if unit == n.DONOR:
        return (
            f"Intervals: 95 %, Student's t over {n_donors} donors (data sets), each with all its micrographs.{too_few}"
        )
    if unit == n.TILE:
        return (
            f"Intervals: 95 %, Student's t over {n_tiles} micrographs, all of one donor (data set): they say nothing "
            f"about another one.{too_few}"
        )
    return f"No intervals: they need {MIN_DONORS} micrographs or more."
