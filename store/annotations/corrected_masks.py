"""The masks of a run that somebody corrected: held against what came back, tile by tile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import TileReadError
from fintune_xr.pixels.corrections import Corrections, corrections
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.runs.run import require_known_run
from fintune_xr.text import texts

_UNCHANGED: Final = (
    "unchanged: it is the mask of run {run}, and nothing tells that somebody looked at it. If somebody found it "
    "right: --accept-unchanged"
)


@dataclass(frozen=True, slots=True, eq=False)
class CorrectedRun:
    """A run whose masks were corrected; with `accepts_unchanged` those that came back as they were are annotations."""

    run: str
    masks: xr.Dataset
    at: Mapping[str, int]
    accepts_unchanged: bool

    @classmethod
    def of(cls, cohort: Cohort, run: str, *, accepts_unchanged: bool) -> CorrectedRun:
        """The run of that name. Raises UnknownNameError where there is none."""
        require_known_run(cohort, [run])
        stored = cohort.run(run, lazy=False)
        states = zip(texts(stored[n.TILE]), stored[n.STATE].values.tolist(), strict=True)
        done = {tile: at for at, (tile, state) in enumerate(states) if state == n.DONE}
        return cls(run, stored, done, accepts_unchanged)

    def compared(self, tile: str, mask: NDArray[Any], *, is_stored: bool) -> Corrections:
        """What was changed in the run's mask of `tile` to give `mask` (y, x).

        Raises TileReadError where the run has no mask of it, or nothing was changed in one that is not stored yet.
        """
        if tile not in self.at:
            raise TileReadError(f"no correction: run {self.run} has no mask of tile {tile}")
        found = corrections(tile_pixels(self.masks, self.at[tile], n.MASK), mask)
        if found.is_unchanged and not (is_stored or self.accepts_unchanged):
            raise TileReadError(_UNCHANGED.format(run=self.run))
        return found
