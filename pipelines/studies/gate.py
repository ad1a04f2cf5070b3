"""Post-processing study: a grid of gates on stored masks and cells; nothing is segmented again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import TypeAdapter

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.analysis.association import associate as correlate
from fintune_xr.analysis.kernels.thresholds import holds_nucleus
from fintune_xr.analysis.positivity.rules import DetectedRule, IntensityRule, PositivityRule
from fintune_xr.analysis.positivity.under_gates import gated_counts, marker_intensity, rank_agreement
from fintune_xr.analysis.ratio import marker_ratio
from fintune_xr.metrics.counts import IOU
from fintune_xr.metrics.instance import IOU_THRESHOLDS, match_subsets
from fintune_xr.pipelines.console import progress
from fintune_xr.pipelines.instance.cell_blocks import cell_blocks
from fintune_xr.pipelines.instance.evaluate import scores_by_group
from fintune_xr.pipelines.steps.positivity import signal_tiles
from fintune_xr.pipelines.studies.study import Study, carry_out
from fintune_xr.pixels.cell_gates import UNGATED, Gate, GateSettings, intensity_bounds, is_kept
from fintune_xr.provenance import provenance
from fintune_xr.settings import load_settings
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.labels.named_labels import gives_named_labels
from fintune_xr.store.lineage.depends_on import part_rests_on, require_sources
from fintune_xr.store.lineage.exclusion import excluded_tiles
from fintune_xr.store.lineage.tile_counts import active_rule, inputs_digest, tile_counts, without_tiles
from fintune_xr.store.lineage.training_exposure import require_unseen
from fintune_xr.store.runs.run import quarantined_of_runs
from fintune_xr.store.split import AnnotatedPart, part_to_score
from fintune_xr.text import texts

CELLS_AT_ONCE: Final = 1 << 20


@gives_named_labels
def gate(
    store: str | Path,
    *,
    run: str,
    split: str = n.TEST,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Scores (group, setting, threshold) and donor ratios (setting, donor, marker) of a run under every gate.

    Scores are on the annotated tiles of `split`, their differences to the run without a gate at IoU 0.5; ratios are
    over the whole cohort, with the run's active positivity rule applied to the cells that stay. Where clinical
    outcomes are stored, rho, p, q, n (setting, marker, outcome) too, q adjusted over all of them. All is stored under
    `metrics/gate_<run>`. Annotated tiles that the run has in quarantine are not scored, and named in the attribute
    LEFT_OUT.

    Raises UnknownNameError for a run that is not there, FintuneValueError where it is not finished or its
    cells have not been judged, SettingsError for a grid that makes no sense.
    """
    cohort = open_cohort(store).opened_once()
    cohort.require("gate")
    settings = load_settings(GateSettings, config, overrides)
    before = tile_counts(cohort, [run])
    part = part_to_score(cohort, split)
    require_sources(cohort, [run])
    left_out = quarantined_of_runs(cohort, [run], part.names)
    require_unseen(cohort, [run], part.names)
    rule = active_rule(cohort, run)
    facts = provenance(
        run=run, split=split, split_digest=part.digest, settings=settings.as_dict(), rule=rule, resamples=resamples,
        seed=seed,
    )  # fmt: skip
    basis = {
        **part_rests_on(cohort, part, [run]),
        n.COUNTED: counts_digest(cohort, before),
    }

    def under_gates(_: xr.Dataset | None) -> Iterator[xr.Dataset]:
        gated = _gated_run(cohort, run, settings.gates)
        counts = _match_tiles(cohort, gated, part.without(left_out))
        bare = counts[[n.TP, n.FP, n.FN]].drop_vars([n.DONOR, n.MARKER, n.SPLIT])
        parts = [bare, _scores(counts, resamples, seed), _ratios(cohort, gated, before)]
        result = xr.merge(parts, join="exact", combine_attrs="drop_conflicts").drop_attrs(deep=False)
        result = result.assign_coords(_setting_coords(settings.gates))
        told = {n.RUN: run, n.RULE: rule, n.LEFT_OUT: left_out}
        yield result.assign_attrs({**told, n.RESTS_ON: basis, n.PROVENANCE: facts})

    name = f"{n.GATE_PREFIX}{run}"
    study = Study(cohort=cohort, path=f"{n.METRICS}/{name}", lock=name, what=f"applying gates to run {run!r}")
    return carry_out(study, under_gates)


def counts_digest(cohort: Cohort, counts: xr.Dataset) -> str:
    """A digest of what ratios and their correlations rest on: the counts of each tile, and the stored outcomes."""
    facts = cohort.read(n.CLINICAL, datasets.CLINICAL).load() if cohort.has(n.CLINICAL) else xr.Dataset()
    return inputs_digest(counts, facts)


@dataclass(frozen=True, eq=False)
class _GatedRun:
    """The cells of a run, tile by tile, and what stays: `bounds` (setting, tile, 2), `n_kept` (setting, tile)."""

    run: str
    gates: tuple[Gate, ...]
    cells: xr.Dataset
    first: NDArray[np.int64]
    bounds: NDArray[np.float64]
    n_kept: NDArray[np.int32]

    def of_tile(self, tile: int) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
        """Labels (instance,) in the mask of a tile, and whether they stay (setting, instance)."""
        cells = self.cells.isel({n.CELL: slice(self.first[tile], self.first[tile + 1])})
        intensity, area = marker_intensity(cells).values, cells[n.AREA_PX].values
        kept = [is_kept(intensity, area, self.bounds[i, tile], gate.min_area) for i, gate in enumerate(self.gates)]
        return cells[n.LABEL].values, np.array(kept)


def _gated_run(cohort: Cohort, run: str, gates: tuple[Gate, ...]) -> _GatedRun:
    """Bounds and cells that stay in every tile of the cohort; a bounded number of cells is in memory at a time."""
    cells = cohort.cells(run, lazy=False)
    n_cells = cohort.run(run, lazy=False)[n.N_CELLS].values
    first = np.concatenate([[0], np.cumsum(np.maximum(n_cells, 0))]).astype(np.int64)
    bounds = np.empty((len(gates), n_cells.size, 2))
    n_kept = np.empty((len(gates), n_cells.size), np.int32)
    for start, stop in _tile_blocks(first):
        part = cells.isel({n.CELL: slice(first[start], first[stop])})
        intensity, area = marker_intensity(part).values, part[n.AREA_PX].values
        here = slice(start, stop)
        bounds[:, here] = intensity_bounds(intensity, first[start : stop + 1] - first[start], [g[:2] for g in gates])
        of_tile = np.repeat(np.arange(start, stop), np.diff(first[start : stop + 1]))
        for i, one in enumerate(gates):
            kept = is_kept(intensity, area, bounds[i, of_tile], one.min_area)
            n_kept[i, here] = np.bincount(of_tile[kept] - start, minlength=stop - start)
    n_kept[:, n_cells < 0] = -1
    return _GatedRun(run, gates, cells, first, bounds, n_kept)


def _tile_blocks(first: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of tiles with about CELLS_AT_ONCE cells; a tile is never cut."""
    start = 0
    while start < first.size - 1:
        stop = int(np.searchsorted(first, first[start] + CELLS_AT_ONCE, side="right")) - 1
        stop = max(stop, start + 1)
        yield start, stop
        start = stop


def _match_tiles(cohort: Cohort, gated: _GatedRun, part: AnnotatedPart) -> xr.Dataset:
    """tp, fp, fn (setting, tile, threshold); the two masks of a tile are read once for all gates."""
    truth, run = cohort.annotations(lazy=False), cohort.run(gated.run, lazy=False)
    place = {name: i for i, name in enumerate(texts(run[n.TILE]))}
    found = []
    with progress(f"gate {gated.run}", len(part)) as advance:
        for tile in part.names:
            labels, kept = gated.of_tile(place[tile])
            true = truth[n.MASK].sel({n.TILE: tile}).values
            found.append(match_subsets(true, run[n.MASK].isel({n.TILE: place[tile]}).values, labels=labels, kept=kept))
            advance(1)
    dims = (n.TILE, n.SETTING, n.THRESHOLD)
    counts = {
        name: (dims, np.array([[getattr(one, name) for one in row] for row in found])) for name in (n.TP, n.FP, n.FN)
    }
    made = xr.Dataset(counts).assign_coords(
        {n.THRESHOLD: list(IOU_THRESHOLDS), n.SETTING: [one.name for one in gated.gates], **part.labels}
    )
    return made.transpose(n.SETTING, n.TILE, n.THRESHOLD)


def _scores(counts: xr.Dataset, resamples: int, seed: int) -> xr.Dataset:
    """Scores of every gate, and at IoU 0.5 their differences to no gate, paired by donor, with interval and p."""
    scores = scores_by_group(counts, resamples, seed)
    at = counts.sel({n.THRESHOLD: [IOU]}).rename({n.SETTING: n.RUN})
    paired = scores_by_group(at, resamples, seed).isel({n.THRESHOLD: 0}, drop=True).rename({n.RUN: n.SETTING})
    names = [str(name) for name in paired if n.DIFFERENCE in str(name)]
    if not names:
        return scores
    return scores.merge(paired[names].sel({n.REFERENCE: UNGATED.name}, drop=True), join="exact")


def _ratios(cohort: Cohort, gated: _GatedRun, before: xr.Dataset) -> xr.Dataset:
    """Ratio, its counts and its agreement with the ratio without a gate; rho where outcomes are stored."""
    rule: PositivityRule = TypeAdapter(PositivityRule).validate_python(_active_rule(cohort, gated.run))
    counts = _detected(cohort, gated, rule) if isinstance(rule, DetectedRule) else _by_intensity(cohort, gated, rule)
    labels = {c: (n.TILE, before[c].values) for c in (n.TILE, n.DONOR, n.MARKER)}
    bare = counts.drop_vars([c for c in counts.coords if c != n.RUN])
    bare = without_tiles(bare, excluded_tiles(cohort))
    counts = bare.assign_coords(labels | {n.RUN: [one.name for one in gated.gates]})
    ratio = marker_ratio(counts[n.N_POSITIVE], counts[n.N_ALL])
    found = ratio.assign({n.RANK_AGREEMENT: rank_agreement(ratio[n.RATIO], ratio[n.RATIO].sel({n.RUN: UNGATED.name}))})
    if cohort.has(n.CLINICAL):
        facts = cohort.read(n.CLINICAL, datasets.CLINICAL)
        adjusting = facts[n.COVARIATE_VALUE] if facts.sizes[n.COVARIATE] else None
        # Gates are looked at side by side: all of them are one family.
        family = (n.RUN, n.MARKER, n.OUTCOME)
        told = correlate(ratio[n.RATIO], facts[n.OUTCOME_VALUE], covariates=adjusting, family=family)
        found = found.merge(told, join="exact")
    kept = xr.DataArray(gated.n_kept, dims=(n.RUN, n.TILE))
    n_kept = kept.where(kept >= 0, 0).sum(n.TILE)
    return found.assign({n.N_KEPT: n_kept}).rename({n.RUN: n.SETTING}).compute()


def _active_rule(cohort: Cohort, run: str) -> dict[str, Any]:
    name = active_rule(cohort, run)
    stored = cohort.positivity(run)
    rules: list[dict[str, Any]] = stored.attrs["rules"]
    return rules[texts(stored[n.RULE]).index(name)]


def _by_intensity(cohort: Cohort, gated: _GatedRun, rule: IntensityRule) -> xr.Dataset:
    """n_all and n_positive (run, tile), a run being a gate, by a rule on the intensities of the cells that stay."""
    cells = cell_blocks(cohort, gated.run, [n.TILE_INDEX, n.MEAN_INTENSITY, n.AREA_PX])
    normalise = bool(cohort.positivity(gated.run).attrs.get(n.NORMALISATION, {}))
    tiles, _ = signal_tiles(cohort, gated.run, normalise=normalise)
    counts = [
        gated_counts(
            cells,
            tiles,
            n_kept=xr.DataArray(gated.n_kept[i], dims=n.TILE),
            bounds=xr.DataArray(gated.bounds[i], dims=(n.TILE, n.BOUND)),
            min_area=one.min_area,
            rule=rule,
        )
        for i, one in enumerate(gated.gates)
    ]
    return xr.concat(counts, n.RUN, join="exact")


def _detected(cohort: Cohort, gated: _GatedRun, rule: DetectedRule) -> xr.Dataset:
    """The same where instances that hold a nucleus are positive and all cells are the nuclei of another run."""
    run, nuclei = (cohort.run(name, lazy=False) for name in (gated.run, rule.nuclei_run))
    done = np.zeros(run.sizes[n.TILE], bool)
    done[: nuclei.sizes[n.TILE]] = nuclei[n.STATE].values == n.DONE
    done &= run[n.STATE].values == n.DONE
    n_all, n_positive = (np.full(gated.n_kept.shape, -1, np.int32) for _ in range(2))
    with progress(f"nuclei of {gated.run}", int(done.sum())) as advance:
        for tile in np.flatnonzero(done):
            labels, kept = gated.of_tile(int(tile))
            masks = (one[n.MASK].isel({n.TILE: tile}).values for one in (run, nuclei))
            holds, n_all[:, tile] = holds_nucleus(*masks)
            n_positive[:, tile] = (kept & holds[labels]).sum(axis=1)
            advance(1)
    dims = (n.RUN, n.TILE)
    return xr.Dataset({n.N_ALL: (dims, n_all), n.N_POSITIVE: (dims, n_positive)})


def _setting_coords(gates: Sequence[Gate]) -> dict[str, xr.DataArray]:
    low, high, area = zip(*gates, strict=True)
    percent = {"units": "%", "long_name": "Percentile of the tile's mean marker intensities, inclusive."}
    return {
        n.Q_LO: xr.DataArray(list(low), dims=n.SETTING, attrs=percent),
        n.Q_HI: xr.DataArray(list(high), dims=n.SETTING, attrs=percent),
        n.MIN_AREA: xr.DataArray(
            list(area), dims=n.SETTING, attrs={"units": "px", "long_name": "Smallest area that stays."}
        ),
    }
