"""What a report shows of particles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr.analysis.figures.detection import ShownPicks


@dataclass(frozen=True, slots=True, eq=False)
class ExampleMicrograph:
    """One micrograph as it is shown: `image` (y, x), annotated centres (particle, 2) in px or None, picks by run."""

    tile: str
    split: str
    image: NDArray[Any]
    true: NDArray[np.float64] | None
    picks: tuple[ShownPicks, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticleContents:
    """What a report of an EM cohort shows besides the cohort itself.

    `scores` are those that `evaluate` stores, of part `split`; `facts` the attributes of the picks of each run;
    `stages` the stored self-trainings by name, with scores (stage, part).
    """

    diameter_px: float
    binning: int = 1
    examples: tuple[ExampleMicrograph, ...] = ()
    scores: xr.Dataset | None = None
    split: str = ""
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stages: Mapping[str, xr.Dataset] = field(default_factory=dict)
