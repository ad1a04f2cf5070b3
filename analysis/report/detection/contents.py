"""What a report shows of particles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr.analysis.figures.detection import ShownPicks
from fintune_xr.analysis.report.contents import Stale


@dataclass(frozen=True, slots=True, eq=False)
class ExampleMicrograph:
    """One micrograph as it is shown: `image` (y, x), annotated centres (particle, 2) in px or None, picks by run.

    `side_um` is the side of a pixel, 0 where it is not known.
    """

    tile: str
    split: str
    image: NDArray[Any]
    true: NDArray[np.float64] | None
    picks: tuple[ShownPicks, ...]
    side_um: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PickScores:
    """Scores that `evaluate` stores, of part `split`, and the attributes of the picks of each run.

    `diameter_px` is that of a particle, `stale` what is out of date and left out.
    """

    diameter_px: float
    scores: xr.Dataset | None = None
    split: str = ""
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stale: tuple[Stale, ...] = ()
