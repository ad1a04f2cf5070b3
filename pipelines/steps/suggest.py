"""Which tiles to annotate next: those on which runs, or one model before and after a flip, disagree most."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.metrics.counts import IOU, f1
from fintune_xr.metrics.instance import match_masks
from fintune_xr.models.devices import resolve_device
from fintune_xr.models.protocol import segment
from fintune_xr.models.registry import kind_named, load_segmenter
from fintune_xr.pipelines.console import progress, say
from fintune_xr.pipelines.inference.request import InferSettings, resolve_request
from fintune_xr.pipelines.leak_check.pairs import copies_of_judges
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.provenance import provenance
from fintune_xr.seeds import stream
from fintune_xr.settings import load_settings, validate
from fintune_xr.splits.spread import spread_order
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.export.cellpose import write_tiles_to_annotate
from fintune_xr.store.labels.named_labels import gives_named_labels
from fintune_xr.store.lineage.depends_on import run_digests
from fintune_xr.store.lineage.exclusion import excluded_tiles
from fintune_xr.store.runs.run import require_known_run
from fintune_xr.store.split import require_split
from fintune_xr.tasks.product import INSTANCES
from fintune_xr.text import text_array, texts

BY_RUNS: Final = "runs"
BY_FLIPS: Final = "flips"
_FLIPS: Final = ((slice(None), slice(None, None, -1)), (slice(None, None, -1), slice(None)))

Masks: TypeAlias = Callable[[int], list[NDArray[Any]]]
"""Masks (y, x) of one tile, by its position in the cohort, that should agree."""


@gives_named_labels
def suggest(
    store: str | Path,
    *,
    n_tiles: int = 20,
    runs: Sequence[str] = (),
    among: int = 500,
    seed: int = 0,
    out: str | Path | None = None,
) -> xr.Dataset:
    """Disagreement (tile) of the `n_tiles` tiles to annotate next, in their order, stored under `suggested`.

    Disagreement is 1 - F1 at IoU 0.5 between the masks of each two of `runs` (by default of all that have masks of the
    tile), averaged; with a single run, between its mask and those of its model on the flipped tile. Tiles come from
    donors without a tile in val or test; annotated ones, those that a stored rule leaves out, those that a run is not
    done with and those that show what a tile of val or test shows are passed over. Where more than `among` remain, so
    many are drawn by `seed`. `out` is a folder for images as Cellpose's GUI opens them, with a table; no masks are
    written there, which would be read as annotations.

    Raises UnknownNameError for a run, SplitError without a valid split, FintuneValueError where no tile is left.
    """
    cohort = open_cohort(store).opened_once()
    cohort.require("suggest")
    digest = require_split(cohort)
    names = _runs(cohort, runs)
    images = cohort.images(lazy=False)
    candidates = _without_copies(cohort, _drawn(_candidates(cohort, images, names), among, seed))
    by = BY_RUNS if len(names) > 1 else BY_FLIPS
    masks = _of_runs(cohort, names) if by == BY_RUNS else _of_flips(cohort, names[0])
    scores = []
    with progress("suggest", candidates.size) as advance:
        for at in candidates.tolist():
            scores.append(disagreement(masks(at)))
            advance(1)
    labels = {name: text_array(images[name])[candidates] for name in (n.TILE, n.DONOR, n.MARKER)}
    tiles, donors, markers = (values.tolist() for values in labels.values())
    order = spread_order(tiles, scores, donors, markers, n=n_tiles)
    rows = [tiles.index(tile) for tile in order]
    told = {"units": "1", "long_name": "1 - F1 at IoU 0.5, mean over pairs of masks."}
    found = xr.Dataset(
        {n.DISAGREEMENT: (n.TILE, np.array(scores)[rows], told)},
        coords={name: (n.TILE, values[rows]) for name, values in labels.items()},
    ).assign_attrs(
        {
            "by": by,
            n.RESTS_ON: {"runs": run_digests(cohort, names), n.SPLIT_DIGEST: digest},
            n.PROVENANCE: provenance(runs=names, by=by, n_tiles=n_tiles, among=among, seed=seed),
        }
    )
    cohort.write(n.SUGGESTED, found)
    if out is not None:
        for path in write_tiles_to_annotate(cohort, order, out):
            say(f"suggest: {path}")
    return cohort.read(n.SUGGESTED)


def disagreement(masks: Sequence[NDArray[Any]]) -> float:
    """1 - F1 at IoU 0.5, averaged over all pairs of masks (y, x); two masks without cells agree."""
    found = []
    for first, second in itertools.combinations(masks, 2):
        counts = match_masks(first, second, thresholds=(IOU,))
        score = float(f1(counts.tp, counts.fp, counts.fn)[0])
        found.append(0.0 if np.isnan(score) else 1.0 - score)
    return float(np.mean(found))


def suggested_table(found: xr.Dataset) -> pd.DataFrame:
    """Rows tile, donor, marker and disagreement, in the order in which to annotate."""
    return found[[n.DISAGREEMENT]].to_dataframe().reset_index()[[n.TILE, n.DONOR, n.MARKER, n.DISAGREEMENT]]


def _runs(cohort: Cohort, runs: Sequence[str]) -> list[str]:
    require_known_run(cohort, runs)
    names = list(dict.fromkeys(runs)) or [run for run in cohort.run_names() if _has_ended(cohort, run)]
    if not names:
        raise FintuneValueError(
            f"{cohort.url} has no finished run of masks, and what disagrees is masks. "
            f"Run: fintune-xr infer {cohort.url} --run R --model M"
        )
    return names


def _has_ended(cohort: Cohort, run: str) -> bool:
    states = cohort.run(run, lazy=False)[n.STATE].values
    is_whole = states.size == cohort.images(lazy=False).sizes[n.TILE]
    return cohort.run_product(run) is INSTANCES and is_whole and not bool((states == n.PENDING).any())


def _candidates(cohort: Cohort, images: xr.Dataset, runs: Sequence[str]) -> NDArray[np.int64]:
    """Positions of tiles that may be suggested."""
    tiles, donors, parts = (text_array(images[name]) for name in (n.TILE, n.DONOR, n.SPLIT))
    known = cohort.annotated_tiles() if cohort.has(n.ANNOTATIONS) else []
    judging = set(donors[np.isin(parts, (n.VAL, n.TEST))])
    allowed = ~np.isin(tiles, known) & ~np.isin(donors, sorted(judging)) & ~excluded_tiles(cohort)
    done = np.ones(tiles.size, bool)
    for run in runs:
        states = cohort.run(run, lazy=False)[n.STATE].values
        done &= np.concatenate([states == n.DONE, np.zeros(tiles.size - states.size, bool)])
    if not (allowed & done).any():
        raise FintuneValueError(
            f"{cohort.url}: no tile to suggest. {int(allowed.sum())} of {tiles.size} tiles have no annotation and are "
            f"of donors without a tile in val or test ({len(judging)} donors have one); {', '.join(runs)} are done "
            f"with {int((allowed & done).sum())} of those."
        )
    return np.flatnonzero(allowed & done)


def _drawn(candidates: NDArray[np.int64], among: int, seed: int) -> NDArray[np.int64]:
    """`among` of the candidates, or all of them where they are no more.

    Raises FintuneValueError for a number below 0.
    """
    if among < 0:
        raise FintuneValueError(f"--among: expected 1 or more tiles, or 0 for all of them, got {among}")
    if not among or candidates.size <= among:
        return candidates
    say(f"suggest: {among} of {candidates.size} candidates are looked at, drawn by seed {seed}")
    return np.sort(stream(seed, "suggest").choice(candidates, among, replace=False))


def _without_copies(cohort: Cohort, candidates: NDArray[np.int64]) -> NDArray[np.int64]:
    """Candidates that are no copies of tiles that judge: those would be annotated to be learnt from.

    Raises FintuneValueError where no other is left.
    """
    tiles = text_array(cohort.images(lazy=False)[n.TILE])
    copies = copies_of_judges(cohort, np.isin(np.arange(tiles.size), candidates))
    for why in copies.values():
        say(f"suggest: left out, because it would be learnt from and judged by: {why}")
    kept = candidates[~np.isin(tiles[candidates], list(copies))]
    if not kept.size:
        raise FintuneValueError(f"{cohort.url}: no tile to suggest: all candidates show what tiles of val or test show")
    return kept


def _of_runs(cohort: Cohort, runs: Sequence[str]) -> Masks:
    stored = [cohort.run(run, lazy=False) for run in runs]
    return lambda at: [tile_pixels(run, at, n.MASK) for run in stored]


def _of_flips(cohort: Cohort, run: str) -> Masks:
    """The stored mask of a run, and those that its model finds in the flipped tile, flipped back."""
    say(f"suggest: run {run} is the only one; its model is asked again on flipped tiles")
    stored, images = cohort.run(run, lazy=False), cohort.images(lazy=False)
    checkpoint, settings = resolve_request(cohort, run, None, load_settings(InferSettings, None, ()), restart=False)
    of_model = validate(kind_named(checkpoint.kind).settings, settings.model, where=f"settings of run {run}")
    segmenter = load_segmenter(
        checkpoint, channels=tuple(texts(images[n.CHANNEL])), settings=of_model, device=resolve_device(settings.device)
    )

    def masks(at: int) -> list[NDArray[Any]]:
        image = tile_pixels(images, at)
        flipped = segment(segmenter, [np.ascontiguousarray(image[(slice(None), *flip)]) for flip in _FLIPS])
        return [tile_pixels(stored, at, n.MASK), *(mask[flip] for mask, flip in zip(flipped, _FLIPS, strict=True))]

    return masks
