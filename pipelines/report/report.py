"""The report of a cohort, from what its store holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.analysis.comparison import HIGH, LOW, compare_runs, summarise
from fintune_xr.analysis.published import STUDY_MARKERS, published_segmentation
from fintune_xr.analysis.report.contents import ReportContents, Stale, Study
from fintune_xr.analysis.report.render import page_and_tables
from fintune_xr.errors import unknown_name
from fintune_xr.pipelines.detection.report import evaluated_part, particle_contents, stale_scores
from fintune_xr.pipelines.report.stored_studies import stored_studies
from fintune_xr.pipelines.steps.associate import (
    CLINICAL,
    RATIO_BY_RULE,
    RHO_BY_RULE,
    RHO_HIGH,
    RHO_LOW,
    association_doubt,
)
from fintune_xr.pipelines.steps.bootstrap import INPUTS
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.lineage.depends_on import doubt, tiles_in
from fintune_xr.store.runs.writer import run_attrs
from fintune_xr.store.tile_counts import active_rule
from fintune_xr.store.zarr_io.groups import subgroups
from fintune_xr.store.zarr_io.location import Location, writing
from fintune_xr.tasks.task import DETECTION
from fintune_xr.text import text_array, texts

N_EXAMPLES = 3
BASELINE = "baseline"


def report(store: str | Path, *, out: str | Path | None = None, baseline: str | None = None) -> Path:
    """Path of a self-contained HTML report; its tables lie beside it as TSV in `<name>_tables/`, and no others.

    Results whose runs, picks, annotations or split have changed since are left out, and named with the command that
    makes them anew.
    `baseline` is the run that others are compared to: by default the run of that name, else the first.

    Raises UnknownNameError for a baseline that is no run, StoreWriteError where the file cannot be written.
    """
    cohort = open_cohort(store)
    path = Path(out) if out is not None else _default_path(cohort)
    contents = report_contents(cohort, baseline=_baseline(cohort, baseline))
    page, by_name = page_and_tables(contents)
    tables = path.with_name(f"{path.stem}_tables")
    with writing(str(path)):
        tables.mkdir(parents=True, exist_ok=True)
        for earlier in tables.glob("*.tsv"):
            earlier.unlink()
    for key, table in by_name.items():
        Location.of(tables).write_whole(f"{key}.tsv", [table.to_csv(sep="\t", index=False).encode()])
    Location.of(path.parent).write_whole(path.name, [page.encode()])
    return path


def report_contents(cohort: Cohort, *, baseline: str = "") -> ReportContents:
    """All that the store holds for a report; what has not been computed yet is None."""
    annotated = tuple(cohort.annotated_tiles()) if cohort.has(n.ANNOTATIONS) else ()
    common: dict[str, Any] = {
        "title": cohort.title,
        "remark": cohort.remark,
        "subtitle": f"{cohort.kind.upper()} cohort, store schema {datasets.SCHEMA_VERSION}",
        "images": cohort.images(lazy=False),
        "annotated_tiles": annotated,
        "quarantine": cohort.quarantine().load(),
        "provenance": _provenance(cohort),
    }
    if cohort.task.name == DETECTION:
        particles, stale = particle_contents(cohort)
        return ReportContents(**common, particles=particles, stale=stale)
    studies, (scores, old), (statistics, older) = (
        stored_studies(cohort),
        _scores(cohort),
        _statistics(cohort, baseline),
    )
    return ReportContents(
        **common,
        examples=_examples(cohort, annotated),
        baseline=baseline,
        published=published_segmentation() if STUDY_MARKERS & set(texts(common["images"][n.MARKER])) else None,
        studies=tuple(study for study in studies if isinstance(study, Study)),
        stale=(*old, *(study for study in studies if isinstance(study, Stale)), *older),
        **scores,
        **statistics,
    )


def _default_path(cohort: Cohort) -> Path:
    if not cohort.location.is_local:
        return Path("report.html")
    return cohort.location.path.with_name(f"{cohort.location.path.stem}_report.html")


def _baseline(cohort: Cohort, asked: str | None) -> str:
    known = cohort.run_names()
    if asked is not None and asked not in known:
        raise unknown_name("run", asked, known)
    if asked is not None:
        return asked
    return BASELINE if BASELINE in known or not known else known[0]


_Shown: TypeAlias = tuple[dict[str, Any], tuple[Stale, ...]]


def _scores(cohort: Cohort) -> _Shown:
    """Scores of the test part, or of the first part that was evaluated."""
    part = evaluated_part(cohort)
    if not part:
        return {}, ()
    stored = cohort.metrics(part).load()
    reason = doubt(cohort, stored, tiles_in(cohort, part))
    if reason:
        return {}, (stale_scores(cohort, part, stored, reason, section="segmentation"),)
    by_tile = [name for name, array in stored.variables.items() if n.TILE in array.dims]
    scores = stored.drop_vars([str(name) for name in by_tile])
    groups = texts(scores[n.GROUP])
    found: dict[str, Any] = {
        "scores": scores.sel({n.GROUP: n.ALL_MARKERS}, drop=True),
        "n_scored_donors": len(set(texts(stored[n.DONOR]))),
        "scored_part": part,
    }
    if len(groups) > 1:
        markers = scores.sel({n.GROUP: [g for g in groups if g != n.ALL_MARKERS]})
        found["scores_by_marker"] = markers.rename({n.GROUP: n.MARKER})
    return found, ()


def _statistics(cohort: Cohort, baseline: str) -> _Shown:
    if not cohort.has(n.ANALYSIS):
        return {}, ()
    analysis = cohort.analysis().load()
    reason = association_doubt(cohort, analysis)
    if reason:
        what = "donor ratios, their associations with outcomes, and their stability"
        sections = ("positivity", "ratios", "associations", "bootstrap", "comparison")
        return {}, (Stale(sections, what, reason, "fintune-xr associate STORE --clinical CSV"),)
    runs = texts(analysis[n.RUN])
    lost = {LOW: analysis[RHO_LOW], HIGH: analysis[RHO_HIGH]}
    found: dict[str, Any] = {
        "analysis": analysis,
        "clinical": cohort.read(CLINICAL, datasets.CLINICAL).load(),
        "rho_if_lost": xr.Dataset(lost),
        "positivity": {run: _positivity(cohort, run) for run in runs},
        "ratio_by_rule": analysis[RATIO_BY_RULE],
        "rho_by_rule": analysis[RHO_BY_RULE],
        "active_rules": {run: active_rule(cohort, run) for run in runs},
    }
    schemes = subgroups(cohort.location, n.BOOTSTRAP)
    if not schemes:
        return found, ()
    scheme = schemes[0] if "tiles_80" not in schemes else "tiles_80"
    resampled = cohort.bootstrap(scheme)
    if resampled.attrs[INPUTS] != analysis.attrs[INPUTS]:
        command = f"fintune-xr bootstrap STORE --scheme {scheme} --resamples {resampled.sizes[n.RESAMPLE]} --restart"
        reason = "they were drawn from other counts or outcomes"
        return found, (Stale(("bootstrap", "comparison"), f"the resamples {scheme}", reason, command),)
    found |= {"bootstrap": resampled.compute(), "stability": summarise(resampled).compute()}
    found["comparisons"] = _comparisons(resampled, baseline)
    return found, ()


def _comparisons(resampled: xr.Dataset, baseline: str) -> tuple[xr.Dataset, ...]:
    runs = texts(resampled[n.RUN])
    if baseline not in runs:
        return ()
    return tuple(compare_runs(resampled, baseline=baseline, other=run).compute() for run in runs if run != baseline)


def _positivity(cohort: Cohort, run: str) -> xr.Dataset:
    markers = text_array(cohort.images(lazy=False)[n.MARKER])
    return cohort.positivity(run).load().assign_coords({n.MARKER: (n.TILE, markers)})


def _provenance(cohort: Cohort) -> dict[str, dict[str, Any]]:
    return {name: run_attrs(cohort, name)["provenance"] for name in cohort.run_names()}


def _examples(cohort: Cohort, annotated: Sequence[str]) -> xr.Dataset | None:
    """A few tiles with the masks of every run that has ended; one per marker where there are several.

    Runs on parts of the cohort, as studies leave them, are shown where there is no other.
    """
    images = cohort.images(lazy=False)
    runs = {name: cohort.run(name, lazy=False) for name in cohort.run_names()}
    ended = {name: run for name, run in runs.items() if _has_ended(run, images.sizes[n.TILE])}
    runs = ended or runs
    names = list(runs)
    done = np.ones(images.sizes[n.TILE], bool)
    for run in runs.values():
        state = np.zeros(done.size, bool)
        state[: run.sizes[n.TILE]] = run[n.STATE].values == n.DONE
        done &= state
    where = _chosen(images, done, annotated)
    if not where or not names:
        return None
    tiles = images.isel({n.TILE: where}).load()
    masks = [run[n.MASK].isel({n.TILE: where}).load().reset_coords(drop=True) for run in runs.values()]
    found = tiles.assign({n.MASK: xr.concat(masks, n.RUN, join="exact").assign_coords({n.RUN: names})})
    if set(texts(tiles[n.TILE])) <= set(annotated):
        truth = cohort.annotations(lazy=False)
        place = {name: i for i, name in enumerate(texts(truth[n.TILE]))}
        order = [place[name] for name in texts(tiles[n.TILE])]
        mask = truth[n.MASK].isel({n.TILE: order}).load().reset_coords(drop=True)
        found = found.assign({n.ANNOTATED: (mask.dims, mask.values)})
    return found


def _has_ended(run: xr.Dataset, n_tiles: int) -> bool:
    return run.sizes[n.TILE] == n_tiles and not bool((run[n.STATE] == n.PENDING).any())


def _chosen(images: xr.Dataset, done: np.ndarray[Any, Any], annotated: Sequence[str]) -> list[int]:
    """Positions of example tiles: annotated test tiles first, then annotated ones, then any; markers in turn."""
    tiles, markers, splits = (text_array(images[name]) for name in (n.TILE, n.MARKER, n.SPLIT))
    known = np.isin(tiles, list(annotated))
    preference = np.where(known & (splits == n.TEST), 0, np.where(known, 1, 2))
    candidates = [int(i) for i in np.flatnonzero(done)]
    if known[candidates].any():
        candidates = [i for i in candidates if known[i]]
    seen: dict[str, int] = {}
    ranked = []
    for i in sorted(candidates, key=lambda i: (preference[i], i)):
        turn = seen.get(markers[i], 0)
        seen[markers[i]] = turn + 1
        ranked.append((turn, int(preference[i]), i))
    return [i for *_, i in sorted(ranked)[:N_EXAMPLES]]
