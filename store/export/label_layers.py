"""Label images of a cohort's tiles, those of runs and those that are annotated, and which of them are exported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.pixels.real_part import real_part
from fintune_xr.store.cohort import Cohort
from fintune_xr.tasks.class_map import IGNORED
from fintune_xr.tasks.product import CLASSES, INSTANCES
from fintune_xr.text import text_array, texts

ANNOTATED: Final = "annotated"


@dataclass(frozen=True, slots=True)
class Choice:
    """What is exported: these runs, and the tiles of these donors and of these ids; all where none is named."""

    runs: tuple[str, ...] = ()
    donors: tuple[str, ...] = ()
    tiles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class LabelLayer:
    """Label images by the name that other tools see; `rows` says which row of `pixels` (tile, y, x) is which tile's.

    `meanings` names the values of maps of classes, without those of `unknown` pixels; instances have none. `run` is
    empty for annotations.
    """

    name: str
    run: str
    pixels: xr.DataArray
    rows: Mapping[str, int]
    meanings: Mapping[int, str]
    unknown: tuple[int, ...] = ()

    def of_tile(self, images: xr.Dataset, at: int) -> NDArray[Any] | None:
        """Labels (y, x) of the tile at this position of `images`, None where it is not done or not annotated."""
        row = self.rows.get(str(images[n.TILE].values[at]))
        if row is None:
            return None
        part = real_part(images, self.pixels.dims, at)
        return np.asarray(self.pixels.isel({n.TILE: row, **part}).values)


@dataclass(frozen=True, slots=True, eq=False)
class LabelledTile:
    """Labels (y, x) of one tile in one layer; `row` is the tile's position in the cohort."""

    layer: LabelLayer
    row: int
    tile: str
    donor: str
    marker: str
    labels: NDArray[Any]


def label_layers(cohort: Cohort, runs: Sequence[str]) -> list[LabelLayer]:
    """The label images of `runs`, of all that hold some where none is named, and of the annotations.

    Raises UnknownNameError for a run that is not there, FintuneValueError for one that holds no label images.
    """
    having = [name for name in cohort.run_names() if cohort.run_product(name) in (INSTANCES, CLASSES)]
    for name in runs:
        cohort.require_run(name)
        if name not in having:
            raise FintuneValueError(
                f"run {name!r} of {cohort.url} holds no label images; those that do: {', '.join(having) or 'none'}"
            )
    found = [_of_run(cohort, name) for name in (runs or having)]
    is_annotated = cohort.task.array and cohort.has(f"{n.ANNOTATIONS}/{cohort.task.array}")
    return [*found, _annotated(cohort)] if is_annotated else found


def labelled_tiles(cohort: Cohort, choice: Choice) -> Iterator[LabelledTile]:
    """The chosen tiles of each layer, those of annotations last; one is in memory at a time.

    Raises UnknownNameError and FintuneValueError as `label_layers` and `chosen_tiles` do; FintuneValueError where
    there is nothing to write.
    """
    images, layers = cohort.images(lazy=False), label_layers(cohort, choice.runs)
    if not layers:
        raise FintuneValueError(
            f"{cohort.url} has no label images to export. Run: fintune-xr infer {cohort.url} --run R --model M, or "
            "annotate it"
        )
    rows = chosen_tiles(cohort, choice)
    for layer in layers:
        for row in rows:
            labels = layer.of_tile(images, row)
            if labels is not None:
                tile, donor, marker = (str(images[name].values[row]) for name in (n.TILE, n.DONOR, n.MARKER))
                yield LabelledTile(layer, row, tile, donor, marker, labels)


def chosen_tiles(cohort: Cohort, choice: Choice) -> list[int]:
    """Positions of the chosen tiles.

    Raises UnknownNameError naming the nearest donor or tile.
    """
    images = cohort.images(lazy=False)
    if not choice.donors and not choice.tiles:
        return list(range(images.sizes[n.TILE]))
    chosen = np.zeros(images.sizes[n.TILE], bool)
    for column, wanted in ((n.DONOR, choice.donors), (n.TILE, choice.tiles)):
        labels = text_array(images[column])
        for label in wanted:
            if label not in labels:
                raise unknown_name(column, label, dict.fromkeys(labels.tolist()))
            chosen |= labels == label
    return [int(row) for row in np.flatnonzero(chosen)]


def _of_run(cohort: Cohort, name: str) -> LabelLayer:
    stored = cohort.run(name, lazy=False)
    pixels = stored[str(cohort.run_product(name).array)]
    done = np.flatnonzero(stored[n.STATE].values == n.DONE).tolist()
    tiles = texts(stored[n.TILE])
    return LabelLayer(name, name, pixels, {tiles[at]: at for at in done}, *_meanings(pixels))


def _annotated(cohort: Cohort) -> LabelLayer:
    stored = cohort.annotations(lazy=False)
    pixels = stored[cohort.task.array]
    rows = {tile: at for at, tile in enumerate(texts(stored[n.TILE]))}
    return LabelLayer(_free_name(ANNOTATED, cohort.run_names()), "", pixels, rows, *_meanings(pixels))


def _free_name(name: str, taken: Sequence[str]) -> str:
    return _free_name(f"{name}_", taken) if name in taken else name


def _meanings(pixels: xr.DataArray) -> tuple[dict[int, str], tuple[int, ...]]:
    """Names of the values of a map of classes, which its CF attributes hold, and values of unknown pixels."""
    if n.FLAG_MEANINGS not in pixels.attrs:
        return {}, ()
    unknown = {*np.atleast_1d(pixels.attrs.get(n.IGNORE_CODES, [])).astype(int).tolist(), IGNORED}
    values = np.atleast_1d(pixels.attrs[n.FLAG_VALUES]).tolist()
    named = dict(zip(map(int, values), str(pixels.attrs[n.FLAG_MEANINGS]).split(), strict=True))
    return {value: name for value, name in named.items() if value not in unknown}, tuple(sorted(unknown))
