"""Shares of cells that are positive in the tiles of several markers of one field, of each donor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.analysis.positivity.counting import (
    marker_background,
    marker_signal,
    otsu_doubts,
    signal_histogram,
    threshold_of_tiles,
)
from fintune_xr.analysis.positivity.doubts import doubt_lines
from fintune_xr.analysis.positivity.rules import FixedRule, OtsuRule
from fintune_xr.analysis.readouts import Readout
from fintune_xr.errors import FintuneValueError, StoreDamagedError, unknown_name
from fintune_xr.metrics.same_cells import same_cells
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.instance.cell_blocks import cell_blocks
from fintune_xr.pipelines.instance.tissue_regions import TissueRegion
from fintune_xr.pixels.pixel_side import sides_um
from fintune_xr.store.cohort import Cohort, explain_read_errors
from fintune_xr.store.runs.mask_run import open_mask_run
from fintune_xr.text import texts


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """The cells of a run, read tile by tile: which are positive, and which are asked for.

    `first` (tile + 1,) is where the cells of each tile begin, `limits` and `background` (tile,) are what their signals
    are held against; `is_known` (tile,) says of which tiles it is known what is positive.
    """

    stored: xr.Dataset
    first: NDArray[np.int64]
    limits: NDArray[np.float32]
    background: NDArray[np.float32]
    is_known: NDArray[np.bool_]
    region: TissueRegion | None

    def judged(self, tile: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which cells (cell,) of a tile are positive, and which are asked for: those of `region`, else all."""
        cells = self.stored.isel({n.CELL: slice(int(self.first[tile]), int(self.first[tile + 1]))}).load()
        is_positive = marker_signal(cells, self.background) > self.limits[tile]
        if self.region is None:
            return is_positive, np.ones(is_positive.size, bool)
        return is_positive, cells[n.REGION_CODE].values == self.region.code


def share_across(
    cohort: Cohort, run: str, readout: Readout, *, valid: NDArray[np.bool_], region: TissueRegion | None
) -> xr.DataArray:
    """Of the cells of the first marker, the share (donor, marker) that is positive in the tiles of all markers.

    Tiles of one donor and field belong together, and a cell of the first marker's tile is positive in another one where
    that has a positive cell whose mask is the same (`same_cells`); a cell without such a mask is not. Positive is what
    lies above the marker's threshold, which is that of all its cells, as in `apply_rules`. Counted are fields that have
    a tile of each marker, all of them `valid` (tile,) and with a threshold; how many are not, and how many cells have
    the same cell in every other tile, is said. The only entry of `marker` is all markers together, as GFAP+IBA1.
    Memory holds a few numbers for each tile, and the masks and cells of one field.

    Raises FintuneValueError where the store knows no fields, two tiles of a field have one marker, or tiles of a field
    differ in size; UnknownNameError for a marker that is not there.
    """
    markers = [marker for marker, _ in readout.conditions]
    images = cohort.images(lazy=False)
    fields = _fields(cohort, images, markers)
    cells = _under_limits(cohort, run, readout, region)
    usable = valid & cells.is_known
    counted = [field for field in fields if usable[list(field)].all()]
    if len(counted) < len(fields):
        left = len(fields) - len(counted)
        why = "a tile of theirs is not done or left out, or has no threshold"
        say(f"associate: {readout.text} of run {run}: {left} of {len(fields)} fields are left out: {why}")
    donors = sorted(set(texts(images[n.DONOR])))
    positive, asked, same = (np.zeros(len(donors), np.int64) for _ in range(3))
    masks, of_tile = open_mask_run(cohort.location, run), texts(images[n.DONOR])
    for field in counted:
        with explain_read_errors(f"{n.CELLS}/{run} of {cohort.url}"):
            judged = [cells.judged(tile) for tile in field]
        found = _matched([masks.mask(tile) for tile in field], [is_positive for is_positive, _ in judged])
        chosen, donor = judged[0][1], donors.index(of_tile[field[0]])
        for total, which in zip((asked, same, positive), (chosen, *found), strict=True):
            total[donor] += np.count_nonzero(which & chosen)
    seen = f"{same.sum()} of {asked.sum()} cells are seen in every tile of their field"
    say(f"associate: {readout.text} of run {run}: {seen}")
    with np.errstate(invalid="ignore"):
        share = (positive / asked)[:, None]
    return xr.DataArray(share, {n.DONOR: donors, n.MARKER: ["+".join(markers)]}, (n.DONOR, n.MARKER))


def _fields(cohort: Cohort, images: xr.Dataset, markers: Sequence[str]) -> list[tuple[int, ...]]:
    """Tiles of each field that has one of every marker, in the order of `markers`; what others lack is said."""
    if n.FIELD not in images.coords:
        raise FintuneValueError(
            f"{cohort.url} does not know which tiles show the same field. Ingest with the part {n.FIELD} in --pattern, "
            f"or the column {n.FIELD} in --samples."
        )
    known = sorted(set(texts(images[n.MARKER])))
    for marker in markers:
        if marker not in known:
            raise unknown_name("marker", marker, known)
    by_field: dict[tuple[str, str], dict[str, int]] = {}
    labels = (texts(images[name]) for name in (n.TILE, n.DONOR, n.FIELD, n.MARKER))
    bare = []
    for at, (tile, donor, field, marker) in enumerate(zip(*labels, strict=True)):
        if marker in markers and not field:
            bare.append(tile)
        elif marker in markers and by_field.setdefault((donor, field), {}).setdefault(marker, at) != at:
            raise FintuneValueError(
                f"{cohort.url}: field {field!r} of donor {donor!r} has two tiles of marker {marker}, one of them "
                f"{tile!r}. Expected one; give them fields of their own, and ingest into another store."
            )
    whole = [tuple(one[marker] for marker in markers) for one in by_field.values() if len(one) == len(markers)]
    if bare:
        say(f"associate: of {len(bare)} tiles of {', '.join(markers)} no field is told, as of {bare[0]}: left out")
    if len(whole) < len(by_field):
        say(f"associate: {len(by_field) - len(whole)} of {len(by_field)} fields have no tile of every marker")
    if not whole:
        raise FintuneValueError(f"{cohort.url}: no field has tiles of all of {', '.join(markers)}")
    _refuse_unlike(cohort, images, whole)
    return whole


def _refuse_unlike(cohort: Cohort, images: xr.Dataset, fields: Sequence[tuple[int, ...]]) -> None:
    """Raises FintuneValueError where tiles of a field are not of one size, and so not in register."""
    sizes = np.stack([images[n.HEIGHT].values, images[n.WIDTH].values, sides_um(images)], axis=1)
    for first, *others in fields:
        for other in others:
            if not np.array_equal(sizes[first], sizes[other]):
                tiles = texts(images[n.TILE])
                shown = [f"{tiles[at]!r} ({sizes[at][0]:g}, {sizes[at][1]:g}) px" for at in (first, other)]
                sides = " and ".join(f"{sizes[at][2]:g}" for at in (first, other))
                raise FintuneValueError(
                    f"{cohort.url}: tiles of one field: expected one height, width and size of pixels, found "
                    f"{' and '.join(shown)}, pixels of {sides} um. Bring them into register before ingest."
                )


def _under_limits(cohort: Cohort, run: str, readout: Readout, region: TissueRegion | None) -> _Cells:
    """The cells of the run under the conditions of their tile's own marker; thresholds within one mode are named."""
    tiles = cohort.run(run, lazy=False)[[n.N_CELLS, n.BACKGROUND]].load()
    columns = [n.TILE_INDEX, n.MEAN_INTENSITY]
    histogram = signal_histogram(cell_blocks(cohort, run, columns)(), tiles)
    limits = np.full(tiles.sizes[n.TILE], np.nan, np.float32)
    of_tile = np.asarray(texts(tiles[n.MARKER]), object)
    for marker, threshold in readout.conditions:
        rule = OtsuRule() if threshold is None else FixedRule(threshold=threshold)
        limits = np.where(of_tile == marker, threshold_of_tiles(histogram, tiles, rule=rule).values, limits)
    by_otsu = {marker for marker, threshold in readout.conditions if threshold is None}
    doubts = {marker: why for marker, why in otsu_doubts(histogram).items() if marker in by_otsu}
    for line in doubt_lines({OtsuRule().name: doubts}, OtsuRule().name):
        say(f"associate: {readout.text} of run {run}: {line}")
    n_cells, background = tiles[n.N_CELLS].values, marker_background(tiles)
    is_known = (n_cells == 0) | ((n_cells > 0) & ~np.isnan(limits) & ~np.isnan(background))
    first = np.concatenate([[0], np.cumsum(np.maximum(n_cells.astype(np.int64), 0))])
    stored = cohort.cells(run, lazy=False)[[*columns, *([n.REGION_CODE] if region is not None else [])]]
    return _Cells(stored, first, limits, background, is_known, region)


def _matched(
    masks: Sequence[NDArray[np.uint32]], positive: Sequence[NDArray[np.bool_]]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which cells of the first mask are in every other one, and which of them are `positive` in all."""
    is_same, in_all = np.ones(positive[0].size, bool), positive[0].copy()
    for mask, one in zip(masks[1:], positive[1:], strict=True):
        place = same_cells(masks[0], mask)
        if place.size != is_same.size or place.max(initial=-1) >= one.size:
            raise StoreDamagedError("masks of a field and the table of cells disagree. Run `fintune-xr check`.")
        is_same &= place >= 0
        in_all &= (place >= 0) & np.append(one, False)[place]
    return is_same, in_all
