"""Tiles that a stored rule leaves out of ratios; without a rule there are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.store.cohort import Cohort
from fintune_xr.tasks.quality import QUALITY
from fintune_xr.text import texts


def exclusion_rule(cohort: Cohort) -> dict[str, Any]:
    """The stored rule: `measures`, its `text`, and `n_tiles` that it leaves out; empty where there is none."""
    if not cohort.has(n.QC):
        return {}
    rule = cohort.read(n.QC, QUALITY).attrs.get(n.EXCLUDED, {})
    return {key: rule[key] for key in rule} if rule else {}


def excluded_tiles(cohort: Cohort) -> NDArray[np.bool_]:
    """Whether a tile (tile,) of the cohort is left out by the stored rule.

    Raises FintuneValueError where a rule is stored and tiles have come in since that nobody has held against it.
    """
    images = cohort.images(lazy=False)
    nothing = np.zeros(images.sizes[n.TILE], bool)
    rule = exclusion_rule(cohort)
    if not rule:
        return nothing
    return _of_cohort(cohort, images, cohort.read(n.QC, QUALITY)[n.EXCLUDED], rule)


def drifting_tiles(cohort: Cohort) -> NDArray[np.bool_] | None:
    """Whether a tile (tile,) is unusual, rule or no rule; None where not every tile has been measured."""
    if not cohort.has(n.QC):
        return None
    images, stored = cohort.images(lazy=False), cohort.read(n.QC, QUALITY)
    if texts(stored[n.TILE]) != texts(images[n.TILE]):
        return None
    return np.array([bool(reason) for reason in texts(stored[n.REASON])])


def _of_cohort(cohort: Cohort, images: xr.Dataset, excluded: xr.DataArray, rule: dict[str, Any]) -> NDArray[np.bool_]:
    if texts(excluded[n.TILE]) != texts(images[n.TILE]):
        raise FintuneValueError(
            f"{cohort.url}: tiles are left out by a rule ({rule['text']}), and tiles have come in since that were not "
            f"held against it. Run: fintune-xr qc {cohort.url}"
        )
    return np.asarray(excluded.values, bool)
