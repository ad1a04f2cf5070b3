"""Why donors have no ratio, told where a correlation lacks them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.pipelines.console import say
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.exclusion import excluded_tiles
from fintune_xr.store.lineage.tile_counts import active_rule
from fintune_xr.text import text_array, texts


def with_missing_ratios(cohort: Cohort, found: xr.Dataset) -> xr.Dataset:
    """`found` with the commonest reason of the tiles of donors without a ratio behind the reason of each missing rho.

    What is missing is also said. `found` has `ratio` (run, donor, marker) and `reason` (run, marker, outcome).
    """
    reason = found[n.REASON].astype(object).copy()
    images = cohort.images(lazy=False)
    markers, donors = text_array(images[n.MARKER]), text_array(images[n.DONOR])
    for run in texts(found[n.RUN]):
        why = why_uncounted(cohort, run)
        for marker in texts(found[n.MARKER]):
            here = {n.RUN: run, n.MARKER: marker}
            ratio = found[n.RATIO].sel(here).values
            imaged = np.isin(text_array(found[n.DONOR]), donors[markers == marker])
            unknown = int(np.isnan(ratio[imaged]).sum())
            if not unknown:
                continue
            lacks = np.isin(donors, text_array(found[n.DONOR])[imaged & np.isnan(ratio)]) & (markers == marker)
            text, count = Counter(why[lacks].tolist()).most_common(1)[0]
            lacking = f"{unknown} of {imaged.sum()} donors have no ratio: {text} ({count} of their {lacks.sum()} tiles)"
            say(f"associate: run {run}, {marker}: {lacking}")
            before = reason.loc[here].values
            reason.loc[here] = np.where(before != "", before + f"; {lacking}", before)
    return found.assign({n.REASON: reason.astype(str).assign_attrs(found[n.REASON].attrs)})


def why_uncounted(cohort: Cohort, run: str) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    """Why a tile (tile,) adds nothing to a ratio: it is left out, failed, has no cell, or the rule could not tell."""
    judged = cohort.positivity(run).sel({n.RULE: active_rule(cohort, run)})
    told = text_array(judged[n.REASON]) if n.REASON in judged else np.full(judged.sizes[n.TILE], "")
    # An older store does not say why.
    told = np.where(told == "", "the rule could not tell", told)
    told = np.where(judged[n.N_ALL].values == 0, "no cell was found", told)
    told = np.where(cohort.run(run, lazy=False)[n.STATE].values == n.QUARANTINED, "the tile is in quarantine", told)
    return np.where(excluded_tiles(cohort), "left out by the rule of qc", told)
