"""Marker-positive cells of a run, from stored intensities or from two runs; nothing is segmented again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from pydantic import TypeAdapter

from fintune_xr import names as n
from fintune_xr.analysis.positivity.by_nuclei import apply_detected, count_nuclei
from fintune_xr.analysis.positivity.counting import apply_rules
from fintune_xr.analysis.positivity.doubts import doubt_lines
from fintune_xr.analysis.positivity.rules import (
    DetectedRule,
    FixedRule,
    MixtureRule,
    OtsuDonorRule,
    OtsuRule,
    PositivityRule,
)
from fintune_xr.errors import FintuneValueError, SettingsError, unknown_name
from fintune_xr.pipelines.console import progress, say
from fintune_xr.pipelines.instance.cell_blocks import cell_blocks
from fintune_xr.pipelines.instance.validation import validate_rules
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.labels.named_labels import gives_named_labels
from fintune_xr.store.lineage.depends_on import run_digests, runs_doubt
from fintune_xr.store.lineage.tile_counts import require_finished
from fintune_xr.store.runs.run import require_known_run
from fintune_xr.store.runs.writer import write_positive
from fintune_xr.tasks.instance import POSITIVITY
from fintune_xr.tasks.product import INSTANCES
from fintune_xr.tasks.quality import QUALITY
from fintune_xr.text import texts

RULE_NAMES = ("otsu", "otsu_donor", "mixture", "fixed", "detected")
# Tiles whose masks are compared in one go: each is some tasks for Dask, whose graph must not grow with the cohort.
TILES_AT_ONCE = 256
# Applied beside the chosen rule, so that the report can show how much the ratio depends on it.
SENSITIVITY: tuple[PositivityRule, ...] = (OtsuRule(), OtsuDonorRule(), MixtureRule())


@gives_named_labels
def positivity(
    store: str | Path,
    *,
    run: str,
    rule: str = "otsu",
    threshold: float | None = None,
    nuclei_run: str = "",
    normalise: bool = False,
) -> xr.Dataset:
    """Counts (rule, tile) of all and of positive cells of `run`; `rule` becomes the active one.

    `rule` is otsu, otsu_donor, mixture, fixed (with `threshold` in counts) or detected (with `nuclei_run`).
    The rules that need intensities only are applied as well, to show how the ratio depends on the choice. With
    `normalise` signals are divided by the scale of the tile's batch, as `qc` stored it; the version is kept.

    Raises UnknownNameError for a rule or run, SettingsError where a rule lacks its number, FintuneValueError
    where a run is not finished.
    """
    cohort = open_cohort(store).opened_once()
    chosen = parse_rule(rule, threshold=threshold, nuclei_run=nuclei_run)
    if run in cohort.run_names():
        require_masks(cohort, run)
    require_marker(cohort)
    result = apply_positivity(cohort, run, chosen, normalise=normalise)
    validate_rules(cohort, run)
    return result


def tells_positives(cohort: Cohort) -> bool:
    """Whether cells can be positive: a marker is seen beside another channel, in which all cells are."""
    channels = texts(cohort.images(lazy=False)[n.CHANNEL])
    return n.MARKER_CHANNEL in channels and len(channels) > 1


def require_masks(cohort: Cohort, run: str) -> None:
    """Raises FintuneValueError for a run without cells."""
    if cohort.run_product(run) is not INSTANCES:
        given = cohort.run_product(run).gives
        raise FintuneValueError(f"run {run!r} holds {given}, not cells; name a run of masks with --run")


def require_marker(cohort: Cohort) -> None:
    """Raises FintuneValueError where cells cannot be positive."""
    if not tells_positives(cohort):
        raise FintuneValueError(
            f"{cohort.url} has the channel(s) {', '.join(texts(cohort.images(lazy=False)[n.CHANNEL]))}: a share of "
            "positive cells takes a marker beside the channel that all cells are seen in. Of one channel there is none."
        )


def rule_table(counts: xr.Dataset) -> pd.DataFrame:
    """One row per rule: rule, n_positive and n_all over the tiles whose positive cells are known."""
    known = counts[n.N_POSITIVE] >= 0
    sums = counts[[n.N_POSITIVE, n.N_ALL]].where(known, 0).sum(n.TILE).astype(np.int64)
    columns = {name: sums[name].values for name in (n.N_POSITIVE, n.N_ALL)}
    return pd.DataFrame({n.RULE: texts(counts[n.RULE]), **columns})


def parse_rule(rule: str, *, threshold: float | None = None, nuclei_run: str = "") -> PositivityRule:
    """The rule of that name with its number or run.

    Raises UnknownNameError for a rule that does not exist, SettingsError where its number or run is missing.
    """
    if rule not in RULE_NAMES:
        raise unknown_name("positivity rule", rule, RULE_NAMES)
    if rule == "fixed" and threshold is None:
        raise SettingsError("rule 'fixed' needs --threshold, the background-subtracted intensity in counts")
    if rule == "detected" and not nuclei_run:
        raise SettingsError("rule 'detected' needs --nuclei-run, a run that segmented the DAPI channel alone")
    if rule == "fixed" and not np.isfinite(threshold or 0.0):
        raise SettingsError(f"--threshold: expected a finite number of counts, got {threshold}")
    values = {"kind": rule, "threshold": threshold, "nuclei_run": nuclei_run}
    wanted = {"fixed": ("kind", "threshold"), "detected": ("kind", "nuclei_run")}.get(rule, ("kind",))
    found: PositivityRule = TypeAdapter(PositivityRule).validate_python({k: values[k] for k in wanted})
    return found


def apply_positivity(cohort: Cohort, run: str, rule: PositivityRule, *, normalise: bool = False) -> xr.Dataset:
    """Counts (rule, tile) of a finished run, stored under `positivity/<run>`, with `rule` active."""
    require_masks(cohort, run)
    require_finished(cohort, run)
    tiles, version = signal_tiles(cohort, run, normalise=normalise)
    if isinstance(rule, DetectedRule):
        require_known_run(cohort, [rule.nuclei_run])
        require_finished(cohort, rule.nuclei_run)
    rules = _in_order([*SENSITIVITY, *_stored_rules(cohort, run), rule])
    intensity = [one for one in rules if not isinstance(one, DetectedRule)]
    result = apply_rules(
        cell_blocks(cohort, run, [n.TILE_INDEX, n.MEAN_INTENSITY]), tiles, rules=intensity, doubts=True
    )
    doubts = result.attrs[n.THRESHOLD_DOUBTS]
    if isinstance(rule, DetectedRule):
        result = xr.concat([result, _detected(cohort, tiles, run, rule)], n.RULE, join="exact", combine_attrs="drop")
    nuclei = run_digests(cohort, [rule.nuclei_run] if isinstance(rule, DetectedRule) else [])
    facts = {"rules": [one.as_dict() for one in rules], "active": rule.name, n.THRESHOLD_DOUBTS: doubts}
    result = result.assign_attrs({**facts, n.NUCLEI: nuclei, n.NORMALISATION: version})
    cohort.write(f"{n.POSITIVITY}/{run}", result, POSITIVITY)
    active = result[n.N_POSITIVE].sel({n.RULE: rule.name}).values.astype(np.int32)
    write_positive(cohort, run, active, rule=rule.name)
    for line in doubt_lines(doubts, rule.name):
        say(f"positivity of {run}: {line}")
    return result


def signal_tiles(cohort: Cohort, run: str, *, normalise: bool) -> tuple[xr.Dataset, dict[str, Any]]:
    """The tiles of a run, with the scale of their batches where signals are to be normalised, and its version.

    Raises StoreNotFoundError where nothing was measured, FintuneValueError where tiles have come in since.
    """
    tiles = cohort.run(run, lazy=False)
    if not normalise:
        return tiles, {}
    quality = cohort.read(n.QC, QUALITY).load()
    if texts(quality[n.TILE]) != texts(tiles[n.TILE]):
        raise FintuneValueError(f"{cohort.url}: tiles have come in since they were measured. Run: fintune-xr qc STORE")
    version = quality.attrs[n.VERSION]
    return tiles.assign_coords({n.SCALE: quality[n.SCALE].variable}), {key: version[key] for key in version}


def is_counted(cohort: Cohort, run: str, rule: PositivityRule) -> bool:
    """Whether the positive cells of a run were counted to the end with `rule`, and from its present cells."""
    active = cohort.run(run, lazy=False)[n.N_POSITIVE].attrs.get(n.RULE, "")
    if active != rule.name or not cohort.has(f"{n.POSITIVITY}/{run}"):
        return False
    return not runs_doubt(cohort, cohort.positivity(run).attrs.get(n.NUCLEI, {}))


def last_rule(cohort: Cohort, run: str) -> PositivityRule | None:
    """The rule that the positive cells of a run were counted with last; None where they never were."""
    if not cohort.has(f"{n.POSITIVITY}/{run}"):
        return None
    adapter: TypeAdapter[PositivityRule] = TypeAdapter(PositivityRule)
    stored = cohort.read(f"{n.POSITIVITY}/{run}").attrs
    (found,) = (rule for rule in map(adapter.validate_python, stored["rules"]) if rule.name == stored["active"])
    return found


def _detected(cohort: Cohort, tiles: xr.Dataset, run: str, rule: DetectedRule) -> xr.Dataset:
    nuclei = cohort.run(rule.nuclei_run, lazy=False)
    both = np.flatnonzero((tiles[n.STATE].values == n.DONE) & (nuclei[n.STATE].values == n.DONE))
    counts = []
    with progress(f"nuclei of {run}", both.size) as advance:
        for first in range(0, max(both.size, 1), TILES_AT_ONCE):
            here = {n.TILE: both[first : first + TILES_AT_ONCE]}
            masks, centres = (one[n.MASK].isel(here).reset_coords(drop=True) for one in (tiles, nuclei))
            counts.append(count_nuclei(masks, centres).compute())
            advance(counts[-1].sizes[n.TILE])
    return apply_detected(xr.concat(counts, n.TILE), tiles[n.N_CELLS].reset_coords(drop=True), rule=rule)


def _stored_rules(cohort: Cohort, run: str) -> list[PositivityRule]:
    if not cohort.has(f"{n.POSITIVITY}/{run}"):
        return []
    adapter: TypeAdapter[PositivityRule] = TypeAdapter(PositivityRule)
    stored = [adapter.validate_python(values) for values in cohort.positivity(run).attrs["rules"]]
    return [rule for rule in stored if isinstance(rule, FixedRule)]


def _in_order(rules: Sequence[PositivityRule]) -> list[PositivityRule]:
    """Each rule once, the last of a name winning."""
    return list({rule.name: rule for rule in rules}.values())
