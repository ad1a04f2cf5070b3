"""Particles of every micrograph: candidates of a run above a threshold that is chosen on the val part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.pipelines.detection.picking import (
    away_from_edges,
    chosen_threshold,
    given_threshold,
    make_candidates,
    pick_rules,
)
from fintune_xr.provenance import provenance
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.labels.named_labels import gives_named_labels
from fintune_xr.store.runs.picks import CANDIDATES_SHA256, candidates_digest, open_candidates, picks_table
from fintune_xr.store.runs.run import check_run_name
from fintune_xr.tasks.detection import PICKS


@gives_named_labels
def pick(
    store: str | Path,
    *,
    run: str,
    model: str | None = None,
    part: str = n.VAL,
    threshold: float | None = None,
    distance: float | None = None,
    border: float = 0.0,
) -> xr.Dataset:
    """Picks (pick,) of every micrograph by `run`, stored as `picks/<run>`: candidates that score a threshold or more.

    The threshold is the one of the highest F1 on the micrographs of `part`, where a pick counts that lies within
    `distance` px of an annotated centre, by default half the annotated diameter; or it is given. That of single pixels
    is always chosen on `part`; without annotated micrographs there, there is none. Picks closer than
    `border` px to an edge are dropped. All lengths are px of the stored tiles. With `model` log, candidates are the
    dark blobs of a Laplacian of a Gaussian instead of those of an inferred run, and `run` is the name for them.

    Raises UnknownNameError for a run without candidates, SplitError without a valid split where one is needed,
    FintuneValueError for a cohort that is not EM or without annotated micrographs in `part`.
    """
    cohort = open_cohort(store).opened_once()
    check_run_name(run)
    cohort.require("pick")
    rules = pick_rules(cohort, distance, border)
    if model is not None:
        make_candidates(cohort, run, model, rules.diameter_px)
    candidates = open_candidates(cohort, run)
    facts = (
        chosen_threshold(cohort, run, candidates, rules, part)
        if threshold is None
        else given_threshold(cohort, run, threshold, part)
    )
    inside = away_from_edges(cohort, candidates, rules.border_px)
    has = inside & (candidates[n.SCORE].values >= np.float32(facts[n.THRESHOLD]))
    picks = picks_table(candidates.isel({n.CELL: np.flatnonzero(has)})).assign_attrs(
        {
            **facts, n.DISTANCE_PX: rules.distance_px, n.BORDER_PX: rules.border_px, n.DIAMETER_PX: rules.diameter_px,
            CANDIDATES_SHA256: candidates_digest(candidates), n.PROVENANCE: provenance(run=run, model=model or ""),
        }
    )  # fmt: skip
    cohort.write(f"{n.PICKS}/{run}", picks, PICKS)
    return picks
