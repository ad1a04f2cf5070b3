"""What the intervals of scores of particles were resampled over, as it is stored and as it is said."""

from __future__ import annotations

from typing import Final

import xarray as xr

from fintune_xr import names as n
from fintune_xr.text import texts

RESAMPLED: Final = "resampled"
"""Attribute of stored scores: donor, tile, or empty where there are no intervals. Older scores are over tiles."""


def interval_line(scores: xr.Dataset) -> str:
    """In one sentence, what a resample of the stored scores is made of, and how many of them there are."""
    unit = scores.attrs.get(RESAMPLED, n.TILE if scores.sizes[n.TILE] > 1 else "")
    n_donors = len(set(texts(scores[n.DONOR])))
    n_tiles = scores.sizes[n.TILE]
    if unit == n.DONOR:
        return f"Intervals: 95 % of a bootstrap over {n_donors} donors (data sets), each with all its micrographs."
    if unit == n.TILE and n_donors == 1:
        return (
            f"Intervals: 95 % of a bootstrap over {n_tiles} micrographs, all of one donor (data set): they say nothing "
            "about another one."
        )
    if unit == n.TILE:
        return (
            f"Intervals: 95 % of a bootstrap over {n_tiles} micrographs of {n_donors} donors (data sets), too narrow. "
            "Run evaluate again: donors are resampled now."
        )
    return "No intervals: they need two micrographs or more."
