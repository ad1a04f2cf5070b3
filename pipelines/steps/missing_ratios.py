"""Why donors have no ratio, told where a correlation lacks them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.pipelines.console import say
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.tile_counts import active_rule
from fintune_xr.text import text_array, texts


def with_missing_ratios(cohort: Cohort, found: xr.Dataset) -> xr.Dataset:
    """`found` with the commonest reason of tiles without a count behind the reason of each missing rho.

    What is missing is also said. `found` has `ratio` (run, donor, marker) and `reason` (run, marker, outcome).
    """
    reason = found[n.REASON].astype(object).copy()
    images = cohort.images(lazy=False)
    markers, donors = text_array(images[n.MARKER]), text_array(images[n.DONOR])
    for run in texts(found[n.RUN]):
        why = _reasons(cohort, run)
        for marker in texts(found[n.MARKER]):
            here = {n.RUN: run, n.MARKER: marker}
            ratio = found[n.RATIO].sel(here).values
            imaged = np.isin(text_array(found[n.DONOR]), donors[markers == marker])
            unknown = int(np.isnan(ratio[imaged]).sum())
            if not unknown:
                continue
            told = Counter(text for text in why[markers[: why.size] == marker].tolist() if text)
            text, count = told.most_common(1)[0] if told else ("no cell was found in any of their tiles", 0)
            lacking = f"{unknown} of {imaged.sum()} donors have no ratio: {text}" + (
                f" ({count} tiles)" if count else ""
            )
            say(f"associate: run {run}, {marker}: {lacking}")
            before = reason.loc[here].values
            reason.loc[here] = np.where(before != "", before + f"; {lacking}", before)
    return found.assign({n.REASON: reason.astype(str).assign_attrs(found[n.REASON].attrs)})


def _reasons(cohort: Cohort, run: str) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    """Why the run's rule could not tell, of each tile; empty where it could, or where an older store does not say."""
    judged = cohort.positivity(run).sel({n.RULE: active_rule(cohort, run)})
    if n.REASON not in judged:
        return np.full(judged.sizes[n.TILE], "")
    return np.asarray(text_array(judged[n.REASON]))
