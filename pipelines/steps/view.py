"""The tiles of a cohort in napari, read as they are looked at, with label images of runs and annotations over them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, MissingPackageError
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.export.label_layers import Choice, LabelLayer, chosen_tiles, label_layers
from fintune_xr.store.labels.ome_zarr import colours, pixel_sides, sample_positions, shown_ranges
from fintune_xr.text import texts


def view(store: str | Path, *, donors: Sequence[str] = (), tiles: Sequence[str] = (), runs: Sequence[str] = ()) -> Any:
    """A napari viewer of the chosen tiles, with a slider over them; nothing is read until it is shown.

    Channels are layers by name and in colour, and so are the label images of `runs`, of all where none is named, and
    of the annotations; tiles that are not done have none. Axes are in um where all chosen tiles tell the same size of
    pixels. The id of the tile that is shown stands in the corner. Call `napari.run()` where no event loop runs yet.

    Raises MissingPackageError without napari, UnknownNameError for a donor, tile or run that is not there.
    """
    napari = _napari()
    cohort = open_cohort(store).opened_once()
    rows = chosen_tiles(cohort, Choice(tuple(runs), tuple(donors), tuple(tiles)))
    if not rows:
        raise FintuneValueError(f"{cohort.url} has no tile to show")
    images = cohort.images().isel({n.TILE: rows})
    layers = label_layers(cohort, runs)
    viewer = napari.Viewer(title=f"{cohort.title}: {len(rows)} tiles")
    scale = _scale(images, [str(dim) for dim in images[n.IMAGE].dims if dim != n.CHANNEL])
    _add_channels(viewer, images, scale)
    for layer in layers:
        labels = _labels(layer, images)
        viewer.add_labels(labels, name=layer.name, scale=[*scale[:1], *scale[1 - labels.ndim :]])
    _tell_tile(viewer, texts(images[n.TILE]))
    return viewer


def _napari() -> Any:
    try:
        import napari
    except ImportError as error:
        raise MissingPackageError(
            "view needs napari and a Qt: pip install 'fintune-xr[napari]'. Without it: fintune-xr report, or "
            "fintune-xr export --to ome-zarr"
        ) from error
    return napari


def _add_channels(viewer: Any, images: xr.Dataset, scale: Sequence[float]) -> None:
    channels = texts(images[n.CHANNEL])
    spread = sample_positions(images.sizes[n.TILE])
    ranges = shown_ranges(tile_pixels(images, at) for at in spread)
    for at, (channel, colour) in enumerate(zip(channels, colours(channels), strict=True)):
        viewer.add_image(
            images[n.IMAGE].isel({n.CHANNEL: at}).data,
            name=channel,
            colormap=f"#{colour}",
            blending="additive",
            contrast_limits=ranges[at],
            scale=list(scale),
            multiscale=False,
        )


def _labels(layer: LabelLayer, images: xr.Dataset) -> da.Array:
    """Labels (tile, y, x) of the chosen tiles in blocks of one tile; background where there are none."""
    rows = [layer.rows.get(tile, -1) for tile in texts(images[n.TILE])]
    shape, dtype = layer.pixels.shape[1:], layer.pixels.dtype

    def read(block_info: Any = None) -> NDArray[Any]:
        row = rows[block_info[None]["chunk-location"][0]]
        found = np.zeros(shape, dtype) if row < 0 else np.asarray(layer.pixels.isel({n.TILE: row}).values)
        return np.where(np.isin(found, layer.unknown), dtype.type(0), found)[None]

    chunks = ((1,) * len(rows), *((side,) for side in shape))
    return da.map_blocks(read, chunks=chunks, dtype=dtype, meta=np.empty((0, 0, 0), dtype))  # type: ignore[no-untyped-call,no-any-return]


def _scale(images: xr.Dataset, dims: Sequence[str]) -> list[float]:
    sides = pixel_sides(images)
    return [sides.get(dim, 1.0) for dim in dims]


def _tell_tile(viewer: Any, tiles: Sequence[str]) -> None:
    """Writes the id of the tile that is shown, and keeps it so as the slider moves."""

    def tell(_event: Any = None) -> None:
        at = min(int(viewer.dims.current_step[0]), len(tiles) - 1)
        viewer.text_overlay.text = tiles[at]

    viewer.text_overlay.visible = True
    viewer.dims.events.current_step.connect(tell)
    tell()
