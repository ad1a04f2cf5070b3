"""Which positivity rule was stated before its rho was seen, and what that rule says where another was chosen since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.association import associate as correlate
from fintune_xr.analysis.ratio import marker_ratio
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.exclusion import excluded_tiles
from fintune_xr.store.lineage.tile_counts import active_rule, without_tiles
from fintune_xr.tasks.instance import POSITIVITY
from fintune_xr.text import text_array, texts

_OF = {n.FIRST_RHO: n.RHO, n.FIRST_P: n.P, n.FIRST_Q: n.Q, n.FIRST_N: n.N}


def rule_history(cohort: Cohort, runs: Sequence[str]) -> dict[str, Any]:
    """Attributes of associations: the rule of each run that was active when rho was first shown, what was shown when.

    From the first associations of a run on, rho under every rule is known: whatever rule becomes active then was chosen
    by somebody who could have looked.
    """
    before = cohort.analysis().attrs if cohort.has(n.ANALYSIS) else {}
    known = before.get(n.FIRST_RULES, before.get("rules", {}))
    first = {run: str(known.get(run, active_rule(cohort, run))) for run in runs}
    kept = {run: known[run] for run in known if run not in first}
    shown = {run: texts(cohort.positivity(run)[n.RULE]) for run in runs}
    event = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "active": _active(cohort, runs), "shown": shown}
    return {n.FIRST_RULES: {**kept, **first}, n.RULES_SHOWN: [*before.get(n.RULES_SHOWN, []), event]}


def by_first_rule(
    cohort: Cohort, first: Mapping[str, str], outcomes: xr.DataArray, covariates: xr.DataArray | None
) -> xr.Dataset:
    """Rho, p, q and n (run, marker, outcome) by the rule stated first, of runs whose active rule is another one now.

    A rule whose counts the store no longer holds gives nothing.
    """
    parts = []
    for run, rule in first.items():
        stored = cohort.read(f"{n.POSITIVITY}/{run}", POSITIVITY)
        if rule == active_rule(cohort, run) or rule not in texts(stored[n.RULE]):
            continue
        counts = stored.sel({n.RULE: rule}, drop=True)[[n.N_POSITIVE, n.N_ALL]].load()
        images = cohort.images(lazy=False)
        labels = {name: (n.TILE, text_array(images[name])) for name in (n.DONOR, n.MARKER)}
        bare = without_tiles(counts.drop_vars(list(labels), errors="ignore"), excluded_tiles(cohort))
        labelled = bare.assign_coords(labels).assign_coords({n.RUN: run})
        ratio = marker_ratio(labelled[n.N_POSITIVE], labelled[n.N_ALL])[n.RATIO]
        found = correlate(ratio, outcomes, covariates=covariates)
        # Runs whose rule is the first one have none of it, which a whole number could not say.
        parts.append(xr.Dataset({name: found[source].astype(float) for name, source in _OF.items()}))
    if not parts:
        return xr.Dataset()
    joined: xr.Dataset = xr.concat(parts, n.RUN, join="outer", coords="minimal", compat="override")
    return joined.drop_attrs()


def _active(cohort: Cohort, runs: Sequence[str]) -> dict[str, str]:
    return {run: active_rule(cohort, run) for run in runs}
