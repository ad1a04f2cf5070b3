"""Scores of masks against the annotated masks, by marker and over all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.metrics.counts import score_name
from fintune_xr.metrics.instance import match_counts
from fintune_xr.metrics.intervals import instance_scores, score_line, scores_by_donor
from fintune_xr.pipelines.console import progress
from fintune_xr.pipelines.task_parts.requests import EvaluateRequest
from fintune_xr.pipelines.task_parts.seen_apart import Scored, seen_apart
from fintune_xr.provenance import provenance
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.depends_on import part_rests_on, require_sources
from fintune_xr.store.lineage.training_exposure import require_unseen
from fintune_xr.store.runs.run import quarantined_of_runs, require_done, require_known_run
from fintune_xr.store.split import ALL, AnnotatedPart, part_to_score
from fintune_xr.text import text_array, texts

SHOWN = (
    score_name(n.AVERAGE_PRECISION, n.IMAGE_MEAN),
    score_name(n.PRECISION, n.POOLED),
    score_name(n.RECALL, n.POOLED),
    score_name(n.F1, n.POOLED),
)


def evaluate_masks(cohort: Cohort, request: EvaluateRequest) -> xr.Dataset:
    """Scores (group, run, threshold) of masks on the annotated tiles of a part, with the counts of each tile.

    Tiles that one of the runs has in quarantine are left out for all of them, and named in the attribute LEFT_OUT;
    those whose cells a run has on the very pixels of the annotation, by run, in SAME_AS_TRUTH.

    Raises UnknownNameError for a run that is not there, FintuneValueError where a run has not come to a tile yet.
    """
    names = list(request.runs) or cohort.run_names()
    if not names:
        raise FintuneValueError(
            f"{cohort.url} has no run to evaluate. Run: fintune-xr infer {cohort.url} --run R --model M"
        )
    require_known_run(cohort, names)
    require_sources(cohort, names)
    part = part_to_score(cohort, request.split)
    left_out = quarantined_of_runs(cohort, names, part.names)
    counts = match_tiles(cohort, names, part.without(left_out), may_be_seen=part.part == ALL)
    scores = scores_by_group(counts, request.resamples, request.seed)
    apart = _apart(cohort, counts, request) if part.part == ALL else xr.Dataset()
    return xr.merge([counts, scores, apart]).assign_attrs(
        {
            **{name: scores.attrs[name] for name in (n.INTERVAL_METHOD,) if name in scores.attrs},
            n.RESTS_ON: part_rests_on(cohort, part, names),
            n.LEFT_OUT: left_out,
            n.SAME_AS_TRUTH: counts.attrs[n.SAME_AS_TRUTH],
            n.PROVENANCE: provenance(
                split=part.part, split_digest=part.digest, resamples=request.resamples, seed=request.seed
            ),
        }
    )


def mask_table(scores: xr.Dataset, *, threshold: float = 0.5) -> pd.DataFrame:
    """One row per group and run: scores at IoU `threshold` with 95 % intervals over donors.

    Scores without groups are of the tiles of all markers.
    """
    at = scores.sel({n.THRESHOLD: threshold}, method="nearest")
    at = at if n.GROUP in at.dims else at.expand_dims({n.GROUP: [n.ALL_MARKERS]})
    rows = []
    for group in at[n.GROUP].values:
        for run in at[n.RUN].values:
            one = at.sel({n.GROUP: group, n.RUN: run})
            rows.append({n.GROUP: group, n.RUN: run} | {name: score_line(one, name) for name in SHOWN})
    return pd.DataFrame(rows)


def match_tiles(cohort: Cohort, names: Sequence[str], part: AnnotatedPart, *, may_be_seen: bool = False) -> xr.Dataset:
    """tp, fp, fn (run, tile, threshold); the masks of one tile are in memory at a time.

    Raises SplitError for tiles that the model of a run has seen in training, unless they `may_be_seen`.
    """
    truth = cohort.annotations(lazy=False)
    predictions = {name: cohort.run(name, lazy=False) for name in names}
    for name, run in predictions.items():
        require_done(cohort, name, run, part.tiles)
    if not may_be_seen:
        require_unseen(cohort, names, part.names)
    rows = []
    same: dict[str, list[str]] = {name: [] for name in names}
    with progress("evaluate", len(part)) as advance:
        for tile in part.names:
            mask = truth[n.MASK].sel({n.TILE: tile}).load().drop_vars(truth.coords, errors="ignore")
            found = []
            for name, run in predictions.items():
                other = run[n.MASK].sel({n.TILE: tile}).load().drop_vars(run.coords, errors="ignore")
                found.append(match_counts(mask, other))
                same[name] += [tile] if _is_drawn_alike(mask, other) else []
            rows.append(xr.concat(found, n.RUN))
            advance(1)
    counts = xr.concat(rows, n.TILE).transpose(n.RUN, n.TILE, n.THRESHOLD)
    told = {n.SAME_AS_TRUTH: {name: tiles for name, tiles in same.items() if tiles}}
    return counts.assign_coords({n.RUN: list(names), **part.labels}).assign_attrs(told)


def _is_drawn_alike(mask: xr.DataArray, other: xr.DataArray) -> bool:
    """Whether two masks have cells on the very same pixels, and on some."""
    return bool((mask > 0).any()) and np.array_equal(mask.values > 0, other.values > 0)


def scores_by_group(counts: xr.Dataset, n_flips: int, seed: int) -> xr.Dataset:
    """Scores (group, …) of counts (…, tile, threshold) with donor, marker and split along tile: all, and each marker.

    Intervals are those of `scores_by_donor`; without two donors there are none.
    """
    markers = sorted(set(text_array(counts[n.MARKER])))
    parts = [(n.ALL_MARKERS, counts)]
    if len(markers) > 1:
        chosen = [(m, np.flatnonzero(counts[n.MARKER].values == m)) for m in markers]
        parts += [(m, counts.isel({n.TILE: where})) for m, where in chosen]
    scored = [_scores(part, n_flips, seed) for _, part in parts]
    alike = [scored[0], *(_with_all_of(scored[0], part) for part in scored[1:])]
    return xr.concat(alike, n.GROUP, join="exact").assign_coords({n.GROUP: [name for name, _ in parts]})


def _apart(cohort: Cohort, counts: xr.Dataset, request: EvaluateRequest) -> xr.Dataset:
    def scores(run: str, at: NDArray[np.intp]) -> xr.Dataset:
        return _scores(counts.sel({n.RUN: run}, drop=True).isel({n.TILE: at}), request.resamples, request.seed)

    tiles = texts(counts[n.TILE])
    return seen_apart(cohort, texts(counts[n.RUN]), Scored(tiles, tiles), scores)


def _with_all_of(whole: xr.Dataset, part: xr.Dataset) -> xr.Dataset:
    """`part` with NaN for the intervals and differences that `whole` has and a single donor cannot give."""
    missing = {name: xr.full_like(whole[name], np.nan, dtype=float) for name in whole if name not in part}
    return part.assign(missing)


def _scores(counts: xr.Dataset, n_flips: int, seed: int) -> xr.Dataset:
    """Scores with intervals; without intervals where there is a single donor."""
    bare = counts[[n.TP, n.FP, n.FN]].drop_vars([n.MARKER, n.SPLIT])
    donor = counts[n.DONOR].reset_coords(drop=True)
    if len(set(texts(donor))) < 2:
        return instance_scores(bare.drop_vars([n.DONOR, n.TILE]), over=n.TILE)
    return scores_by_donor(bare, donor, n_flips=n_flips, seed=seed)
