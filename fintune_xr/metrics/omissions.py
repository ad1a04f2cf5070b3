"""What makes stored scores look better than they are, or leaves some of them out, in words for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import xarray as xr

from fintune_xr import names as n

N_NAMED: Final = 5


def doubt_lines(scores: xr.Dataset) -> list[str]:
    """`left_out_lines`, and a line for each run whose model has seen some of the tiles in training, or whose masks are
    the annotations.
    """
    return [*left_out_lines(scores), *scores.attrs.get(n.SEEN, []), *_same_lines(scores)]


def _same_lines(scores: xr.Dataset) -> list[str]:
    """A line for each run with cells on the very pixels of annotations, as hardly any model draws."""
    same: Mapping[str, list[str]] = scores.attrs.get(n.SAME_AS_TRUTH, {})
    return [
        f"run {run}: its masks are the annotations, pixel by pixel, on {len(tiles)} tile(s): {_named(tiles)}. Were the "
        "annotations imported as a run, or made of it? Then its scores say nothing there."
        for run, tiles in same.items()
    ]


def left_out_lines(scores: xr.Dataset) -> list[str]:
    """A line for each run that has annotated tiles in quarantine, with a few of them; none in older scores.

    `scores` are those of runs (run, …), or of a single one.
    """
    left_out: Mapping[str, list[str]] = scores.attrs.get(n.LEFT_OUT, {})
    tiles = sorted({tile for of_run in left_out.values() for tile in of_run})
    if not tiles:
        return []
    lines = [
        f"run {run} has {len(of_run)} annotated tile(s) in quarantine: {_named(of_run)}"
        for run, of_run in left_out.items()
    ]
    alone = "They are" if scores.sizes.get(n.RUN, 1) == 1 else "All runs, and their differences, are"
    told = "not scored" if alone == "They are" else "scored on the tiles that all of them have"
    return [*lines, f"{alone} {told}: {len(tiles)} left out. Try again: fintune-xr infer --retry-quarantined."]


def _named(tiles: list[str]) -> str:
    return ", ".join(tiles[:N_NAMED]) + (", …" if len(tiles) > N_NAMED else "")
