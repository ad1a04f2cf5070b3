"""Tiles grouped by donor and marker, from coordinates alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from fintune_xr.errors import FintuneValueError
from fintune_xr.names import DONOR, MARKER, RUN, TILE

UNNAMED_RUN = "unnamed"


@dataclass(frozen=True)
class TileGroups:
    """Donors and markers in alphabetical order, and the position of every tile's own among them.

    A group is one donor under one marker; groups are numbered donor by donor.
    """

    donors: NDArray[np.str_]
    markers: NDArray[np.str_]
    donor_of_tile: NDArray[np.int64]
    marker_of_tile: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of donors and of markers."""
        return self.donors.size, self.markers.size

    @property
    def group_of_tile(self) -> NDArray[np.int64]:
        """Number of every tile's group."""
        return self.donor_of_tile * self.markers.size + self.marker_of_tile

    @property
    def group_keys(self) -> NDArray[np.uint64]:
        """64 bits (group,) that stand for the names of donor and marker, whatever other groups there are."""
        names = (f"{donor}\0{marker}" for donor in self.donors for marker in self.markers)
        digests = b"".join(hashlib.sha256(name.encode()).digest()[:8] for name in names)
        return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def tile_groups(tiles: xr.DataArray | xr.Dataset) -> TileGroups:
    """Groups of the coordinates `donor` and `marker` that lie along `tile`; they are indexed, so in memory.

    Raises FintuneValueError where one of them is missing.
    """
    for name in (DONOR, MARKER):
        if name not in tiles.coords or tiles.coords[name].dims != (TILE,):
            raise FintuneValueError(
                f"expected the coordinates {DONOR!r} and {MARKER!r} along {TILE!r}, "
                f"found {sorted(map(str, tiles.coords))}. "
                "Take the counts together with the coordinates of the images group."
            )
    donor, donors = _codes(tiles.coords[DONOR])
    marker, markers = _codes(tiles.coords[MARKER])
    return TileGroups(donors, markers, donor, marker)


def with_runs(counts: xr.DataArray) -> xr.DataArray:
    """`counts` as (run, tile) in one chunk; counts (tile) get the run that their coordinate names."""
    if RUN not in counts.dims:
        name = str(counts.coords[RUN].item()) if RUN in counts.coords else UNNAMED_RUN
        counts = counts.drop_vars(RUN, errors="ignore").expand_dims({RUN: [name]})
    counts = counts.transpose(RUN, TILE)
    if counts.chunks is None:
        return counts
    # Eight bytes a tile and run: a million tiles fit one chunk easily. The coordinates stay in memory.
    return counts.copy(data=counts.variable.chunk({RUN: -1, TILE: -1}).data)


def of_donors(table: xr.DataArray, donors: xr.DataArray | NDArray[np.str_]) -> xr.DataArray:
    """Rows of `table` (donor, ...) for exactly these donors, NaN where it has none, in one chunk along donor."""
    rows = table.reindex({DONOR: donors})
    return rows.chunk({DONOR: -1}) if rows.chunks is not None else rows


def _codes(labels: xr.DataArray) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    codes, names = pd.factorize(np.array(labels.to_numpy().tolist(), dtype=str), sort=True)
    return codes.astype(np.int64), np.asarray(names, dtype=str)
