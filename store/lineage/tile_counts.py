"""Counts of all and positive cells per tile of several runs, as the statistics take them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.depends_on import runs_doubt
from fintune_xr.store.lineage.exclusion import excluded_tiles
from fintune_xr.store.runs.run import finish_command, require_known_run
from fintune_xr.tasks.instance import POSITIVITY
from fintune_xr.tasks.quality import QUALITY
from fintune_xr.text import text_array, texts

# Digest of the run whose nuclei were counted, by its name: an attribute of the stored counts.


def active_rule(cohort: Cohort, run: str) -> str:
    """Name of the positivity rule that the run's `n_positive` was counted with.

    Raises FintuneValueError where no rule has been applied to the end, or nuclei it used are those of another run now.
    """
    rule = str(cohort.run(run, lazy=False)[n.N_POSITIVE].attrs.get(n.RULE, ""))
    if not rule or not cohort.has(f"{n.POSITIVITY}/{run}"):
        raise FintuneValueError(
            f"run {run!r} of {cohort.url} has no marker-positive cells yet. "
            f"Run: fintune-xr positivity {cohort.url} --run {run}"
        )
    counted = cohort.positivity(run)
    if rule not in counted[n.RULE].values:
        raise FintuneValueError(
            f"run {run!r}: counting with rule {rule!r} was interrupted. "
            f"Run again: fintune-xr positivity {cohort.url} --run {run}"
        )
    told = runs_doubt(cohort, counted.attrs.get(n.NUCLEI, {}))
    if told:
        raise FintuneValueError(
            f"run {run!r} was counted with nuclei of another run, but {told}. "
            f"Count again: fintune-xr positivity {cohort.url} --run {run} --rule detected --nuclei-run R"
        )
    told = normalisation_doubt(cohort, counted.attrs.get(n.NORMALISATION, {}))
    if told:
        raise FintuneValueError(
            f"run {run!r}: {told}. Count again: fintune-xr positivity {cohort.url} --run {run} --normalise"
        )
    return rule


def normalisation_doubt(cohort: Cohort, version: Mapping[str, Any]) -> str:
    """Why signals normalised by this version are not those of the store as it is now; empty where they are."""
    if not version:
        return ""
    now = cohort.read(n.QC, QUALITY).attrs[n.VERSION] if cohort.has(n.QC) else {}
    if not now or now[n.DIGEST] != version[n.DIGEST]:
        return f"signals were normalised by version {version['number']}, and batches are scaled otherwise now"
    return ""


def tile_counts(cohort: Cohort, runs: Sequence[str], *, exclude: bool = True) -> xr.Dataset:
    """n_positive and n_all (run, tile) under each run's active rule, with donor and marker; -1 unknown.

    Tiles that a stored rule leaves out are unknown too, unless `exclude` is false.

    Raises FintuneValueError where a run has pending tiles or none of its cells have been judged.
    """
    require_known_run(cohort, runs)
    found = []
    for name in runs:
        require_finished(cohort, name)
        rule = active_rule(cohort, name)
        counts = cohort.read(f"{n.POSITIVITY}/{name}", POSITIVITY).sel({n.RULE: rule})[[n.N_POSITIVE, n.N_ALL]]
        found.append(counts.drop_vars(n.RULE).assign_coords({n.RUN: name}))
    images = cohort.images(lazy=False)
    labels = {c: (n.TILE, images[c].values) for c in (n.DONOR, n.MARKER)}
    counts = xr.concat(found, n.RUN, join="exact", coords="different", compat="equals").assign_coords(labels)
    return without_tiles(counts, excluded_tiles(cohort)) if exclude else counts


def cell_counts(cohort: Cohort, runs: Sequence[str]) -> xr.Dataset:
    """n_cells (run, tile) with donor and marker, whatever cells are positive; -1 where a tile failed or is left out.

    Raises FintuneValueError where a run has pending tiles.
    """
    require_known_run(cohort, runs)
    for name in runs:
        require_finished(cohort, name)
    stored = np.array([cohort.run(name, lazy=False)[n.N_CELLS].values for name in runs], np.int64)
    images = cohort.images(lazy=False)
    labels = {c: (n.TILE, images[c].values) for c in (n.TILE, n.DONOR, n.MARKER)}
    counts = xr.Dataset({n.N_CELLS: ((n.RUN, n.TILE), stored)}, coords={n.RUN: list(runs), **labels})
    return without_tiles(counts, excluded_tiles(cohort))


def without_tiles(counts: xr.Dataset, left_out: NDArray[np.bool_]) -> xr.Dataset:
    """`counts` (…, tile) with -1, unknown, where a tile (tile,) is left out; the same where none is."""
    if not left_out.any():
        return counts
    return counts.where(~xr.DataArray(left_out, dims=n.TILE), -1).astype(next(iter(counts.values())).dtype)


def quarantined_tiles(cohort: Cohort, runs: Sequence[str]) -> xr.DataArray:
    """Whether a tile was lost (run, tile), with donor and marker: files left out at ingest, tiles that failed.

    Files whose donor or marker is not known, and copies of tiles that are there, are no lost tiles.
    """
    images = cohort.images(lazy=False)
    failed = np.array([(cohort.run(name, lazy=False)[n.STATE] == n.QUARANTINED).values for name in runs])
    left_out = cohort.quarantine().load()
    ids = text_array(images[n.TILE])
    there = set(ids[np.isin(ids, text_array(left_out[n.TILE]))]) if n.TILE in left_out else set()
    lost = [
        i
        for i in range(left_out.sizes[n.ITEM])
        if left_out[n.DONOR].values[i] in images[n.DONOR].values
        and left_out[n.MARKER].values[i] in images[n.MARKER].values
        and str(left_out[n.TILE].values[i] if n.TILE in left_out else "") not in there
    ]
    extra = left_out.isel({n.ITEM: lost})
    values = np.concatenate([failed, np.ones((len(runs), len(lost)), bool)], axis=1)
    tiles = np.concatenate([ids, np.array([f"left out: {path}" for path in texts(extra["path"])], np.str_)])
    labels = {c: (n.TILE, np.concatenate([text_array(images[c]), text_array(extra[c])])) for c in (n.DONOR, n.MARKER)}
    return xr.DataArray(values, dims=(n.RUN, n.TILE), coords={n.RUN: list(runs), n.TILE: tiles, **labels})


def inputs_digest(*parts: xr.Dataset | xr.DataArray) -> str:
    """SHA-256 of values and labels, so that results of other inputs are never mixed."""
    seen = hashlib.sha256()
    for part in parts:
        dataset = part.to_dataset(name="values") if isinstance(part, xr.DataArray) else part
        for name in sorted(map(str, dataset.variables)):
            values = dataset[name].values
            seen.update(f"{name}{values.shape}{dataset[name].dims}".encode())
            text = values.dtype.kind in "UTO"
            seen.update("\0".join(map(str, values.ravel().tolist())).encode() if text else values.tobytes())
    return seen.hexdigest()


def require_finished(cohort: Cohort, run: str) -> None:
    """Raises FintuneValueError where the run has tiles of the cohort pending."""
    states = cohort.run(run, lazy=False)[n.STATE].values
    n_tiles = cohort.images(lazy=False).sizes[n.TILE]
    pending = int((states == n.PENDING).sum()) + n_tiles - states.size
    if pending:
        raise FintuneValueError(
            f"run {run!r} has {pending} of {n_tiles} tiles pending; a result from the rest would be wrong. "
            f"Finish it: {finish_command(cohort, run)}, or name other runs with --run"
        )
