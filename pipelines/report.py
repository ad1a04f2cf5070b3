"""The report of a cohort, from what its store holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.analysis.comparison import HIGH, LOW, compare_runs, summarise
from fintune_xr.analysis.published import STUDY_MARKERS, published_segmentation
from fintune_xr.analysis.report.contents import ReportContents
from fintune_xr.analysis.report.render import render_report, report_tables
from fintune_xr.errors import unknown_name
from fintune_xr.pipelines.associate import CLINICAL, RATIO_BY_RULE, RHO_BY_RULE, RHO_HIGH, RHO_LOW
from fintune_xr.pipelines.counts import active_rule
from fintune_xr.pipelines.evaluate import ALL_MARKERS, GROUP
from fintune_xr.pipelines.report_particles import particle_contents
from fintune_xr.pipelines.studies import stored_studies
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.location import Location, writing
from fintune_xr.store.runs import run_attrs
from fintune_xr.store.tables import subgroups
from fintune_xr.text import text_array, texts

N_EXAMPLES = 3
BASELINE = "baseline"


def report(store: str | Path, *, out: str | Path | None = None, baseline: str | None = None) -> Path:
    """Path of a self-contained HTML report; its tables lie beside it as TSV in `<name>_tables/`.

    `baseline` is the run that others are compared to: by default the run of that name, else the first.

    Raises UnknownNameError for a baseline that is no run, StoreWriteError where the file cannot be written.
    """
    cohort = open_cohort(store)
    path = Path(out) if out is not None else _default_path(cohort)
    contents = report_contents(cohort, baseline=_baseline(cohort, baseline))
    tables = path.with_name(f"{path.stem}_tables")
    with writing(str(path)):
        tables.mkdir(parents=True, exist_ok=True)
    for key, table in report_tables(contents).items():
        Location.of(tables).write_whole(f"{key}.tsv", [table.to_csv(sep="\t", index=False).encode()])
    Location.of(path.parent).write_whole(path.name, [render_report(contents).encode()])
    return path


def report_contents(cohort: Cohort, *, baseline: str = "") -> ReportContents:
    """All that the store holds for a report; what has not been computed yet is None."""
    annotated = tuple(cohort.annotated_tiles()) if cohort.has(n.ANNOTATIONS) else ()
    common: dict[str, Any] = {
        "title": cohort.title,
        "subtitle": f"{cohort.kind.upper()} cohort, store schema {datasets.SCHEMA_VERSION}",
        "images": cohort.images(lazy=False),
        "annotated_tiles": annotated,
        "quarantine": cohort.quarantine().load(),
        "provenance": _provenance(cohort),
    }
    if cohort.kind == "em":
        return ReportContents(**common, particles=particle_contents(cohort))
    return ReportContents(
        **common,
        examples=_examples(cohort, annotated),
        baseline=baseline,
        published=published_segmentation() if STUDY_MARKERS & set(texts(common["images"][n.MARKER])) else None,
        studies=stored_studies(cohort),
        **_scores(cohort),
        **_statistics(cohort, baseline),
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


def _scores(cohort: Cohort) -> dict[str, Any]:
    """Scores of the test part, or of the first part that was evaluated."""
    evaluated = [name for name in (n.TEST, *n.SPLITS, "all") if cohort.has(f"{n.METRICS}/{name}")]
    if not evaluated:
        return {}
    stored = cohort.metrics(evaluated[0]).load()
    by_tile = [name for name, array in stored.variables.items() if n.TILE in array.dims]
    scores = stored.drop_vars([str(name) for name in by_tile])
    groups = texts(scores[GROUP])
    found: dict[str, Any] = {
        "scores": scores.sel({GROUP: ALL_MARKERS}, drop=True), "n_scored_donors": len(set(texts(stored[n.DONOR])))
    }
    if len(groups) > 1:
        markers = scores.sel({GROUP: [g for g in groups if g != ALL_MARKERS]})
        found["scores_by_marker"] = markers.rename({GROUP: n.MARKER})
    return found


def _statistics(cohort: Cohort, baseline: str) -> dict[str, Any]:
    if not cohort.has(n.ANALYSIS):
        return {}
    analysis = cohort.analysis().load()
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
    if schemes:
        resampled = cohort.bootstrap(schemes[0] if "tiles_80" not in schemes else "tiles_80")
        found |= {"bootstrap": resampled.compute(), "stability": summarise(resampled).compute()}
        found["comparisons"] = _comparisons(resampled, baseline)
    return found


def _comparisons(resampled: xr.Dataset, baseline: str) -> tuple[xr.Dataset, ...]:
    runs = texts(resampled[n.RUN])
    if baseline not in runs:
        return ()
    return tuple(
        compare_runs(resampled, baseline=baseline, other=run).compute() for run in runs if run != baseline
    )


def _positivity(cohort: Cohort, run: str) -> xr.Dataset:
    markers = text_array(cohort.images(lazy=False)[n.MARKER])
    return cohort.positivity(run).load().assign_coords({n.MARKER: (n.TILE, markers)})


def _provenance(cohort: Cohort) -> dict[str, dict[str, Any]]:
    return {name: run_attrs(cohort, name)["provenance"] for name in cohort.run_names()}


def _examples(cohort: Cohort, annotated: Sequence[str]) -> xr.Dataset | None:
    """A few tiles with the masks of every run that is done on them; one per marker where there are several."""
    names = cohort.run_names()
    images = cohort.images(lazy=False)
    runs = {name: cohort.run(name, lazy=False) for name in names}
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
