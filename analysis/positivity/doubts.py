"""What speaks against a threshold of positivity: that no population lies on each of its sides. It changes no count."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr.analysis.kernels.separation import APART, separation, zero_apart
from fintune_xr.names import BIN, DONOR, MARKER
from fintune_xr.text import texts

# Of so few cells below 0 nothing is said.
_FEWEST_BELOW: Final = 5
_LISTED: Final = 5


def within_one_mode(histogram: xr.DataArray, threshold: xr.DataArray) -> dict[str, str]:
    """By marker, why `threshold` (marker) in counts lies within one mode of `histogram` (marker, bin) of log signal.

    Markers without a threshold, and those whose threshold lies between two populations, are left out. The test is
    `separation`: Ashman's D of two fitted Gaussians, and on which side of the threshold they lie.
    """
    found = separation(histogram.transpose(MARKER, BIN).values, threshold.values)
    rows = zip(texts(histogram[MARKER]), found.distance.tolist(), found.is_between.tolist(), strict=True)
    return {marker: _one_mode(distance) for marker, distance, is_between in rows if not is_between}


def _one_mode(distance: float) -> str:
    if distance > APART:
        return f"two populations are apart (Ashman's D {distance:.1f}), and it lies inside one of them"
    return (
        f"two populations fitted to the signals are not apart (Ashman's D {distance:.1f}, two modes from {APART:g} on)"
    )


def in_noise(
    histogram: xr.DataArray, threshold: xr.DataArray, positive: NDArray[np.int64], below: NDArray[np.int64]
) -> dict[str, str]:
    """By group, why its `threshold` (..., marker) in counts lies in the noise around the background.

    `positive` (..., marker) counts cells above it, `below` those as far below the background as it is above. Noise has
    as many on both sides, so that half as many below as above make half of the positive ones noise (Barber & Candes
    2015, Ann. Stat. 43:2055); where the dim cells of `histogram` (..., marker, bin) are a population of their own below
    the background, `zero_apart`, nothing follows from them.
    """
    apart = zero_apart(histogram.values, threshold.values)
    hit = (below >= _FEWEST_BELOW) & (2 * below >= positive) & ~apart & ~np.isnan(threshold.values)
    return {
        _named(threshold[at].coords): f"{below[at]:,} cells are as far below the background as it is above, and "
        f"{positive[at]:,} are positive, as noise gives them"
        for at in zip(*np.nonzero(hit), strict=True)
    }


def doubt_lines(doubts: Mapping[str, Mapping[str, str]], rule: str) -> list[str]:
    """What `apply_rules` found against the thresholds of `rule`, a line for each; a few of many."""
    found = doubts.get(rule, {})
    lines = [
        f"{where}: the threshold of rule {rule} lies within one mode: {why}. The share of positive cells is not to be "
        "trusted"
        for where, why in list(found.items())[:_LISTED]
    ]
    return [*lines, f"and {len(found) - _LISTED} more like it"] if len(found) > _LISTED else lines


def _named(coords: Mapping[Hashable, xr.DataArray]) -> str:
    marker = str(coords[MARKER].item())
    return f"{marker} of donor {coords[DONOR].item()}" if DONOR in coords else marker
