"""A store in the words of OME-Zarr 0.5: its images and runs open in viewers as they lie, and no pixel is copied.

Reference: OME-NGFF 0.5, https://ngff.openmicroscopy.org/0.5.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.store.zarr_io.groups import open_writable, read_attrs
from fintune_xr.store.zarr_io.location import Location, explain_write_errors

VERSION: Final = "0.5"
# OME-Zarr knows one axis beyond channels and space, and calls it time: a viewer gets its slider over tiles from it.
AXIS_TYPES: Final = {n.TILE: "time", n.CHANNEL: "channel", n.Z: "space", n.Y: "space", n.X: "space"}
# Columns that tell the side of a stored pixel, and how many micrometres their unit is.
_SIDES: Final[Mapping[str, Mapping[str, float]]] = {
    n.PIXEL_SIZE_A: {n.Y: 1e-4, n.X: 1e-4},
    n.MPP: {n.Y: 1.0, n.X: 1.0},
    n.SPACING_Z: {n.Z: 1e3},
    n.SPACING_Y: {n.Y: 1e3},
    n.SPACING_X: {n.X: 1e3},
}
_COLOURS: Final = {
    n.DAPI: "0000FF", n.MARKER_CHANNEL: "00FF00", n.RED: "FF0000", n.GREEN: "00FF00", n.BLUE: "0000FF",
}  # fmt: skip
_OTHERS: Final = ("FF00FF", "FFFF00", "00FFFF", "FF8000", "FF0000", "00FF00", "0000FF")
_ALONE: Final = "FFFFFF"
# Tiles that the shown range of each channel is taken from, and what share of their pixels lies below it and above it.
_TILES_LOOKED_AT: Final = 8
_PIXELS_LOOKED_AT: Final = 1 << 17
_SHARE_BEYOND: Final = 0.001


def pixel_sides(images: xr.Dataset) -> dict[str, float]:
    """Length in um of a stored pixel along each space dim of which all tiles tell the same; others are not in it."""
    found: dict[str, float] = {}
    for column, dims in _SIDES.items():
        values = np.unique(images[column].values) if column in images.coords else np.empty(0)
        if values.size == 1 and values[0] > 0:
            found |= {dim: float(values[0]) * factor for dim, factor in dims.items()}
    return found


def image_ome(
    name: str, dims: Sequence[str], sides: Mapping[str, float], *, levels: Sequence[str] = (n.IMAGE,)
) -> dict[str, Any]:
    """`ome` of a group with the arrays `levels` over `dims`, of which each halves `y` and `x` of the one before.

    Pixels of the first are `sides` um long along the dims of which that is known.
    """
    axes = [{"name": dim, "type": AXIS_TYPES[dim]} | _unit(dim, sides) for dim in dims]
    datasets = [{"path": path, "coordinateTransformations": _placed(dims, sides, at)} for at, path in enumerate(levels)]
    return {"version": VERSION, "multiscales": [{"name": name, "axes": axes, "datasets": datasets}]}


def of_labels(ome: Mapping[str, Any], image: str) -> dict[str, Any]:
    """`ome` of label images; `image` is the path from their group to that of the image that they belong to."""
    # No colours are chosen, which some readers want to be said.
    return {**ome, "image-label": {"colors": [], "source": {"image": image}}}


def shown_channels(channels: Sequence[str], ranges: Sequence[tuple[float, float]], dtype: np.dtype[Any]) -> list[Any]:
    """`channels` of the part `omero`: name, colour, and the range of values that is shown of each."""
    whole = np.iinfo(dtype) if dtype.kind in "ui" else None
    return [
        {
            "label": channel,
            "color": colour,
            "active": True,
            "window": {
                "min": float(low if whole is None else whole.min),
                "max": float(high if whole is None else whole.max),
                "start": low,
                "end": high,
            },
        }
        for channel, colour, (low, high) in zip(channels, colours(channels), ranges, strict=True)
    ]


def colours(channels: Sequence[str]) -> Iterator[str]:
    """A colour, as six hexadecimal digits, of each channel; white where there is one alone."""
    others = iter(_OTHERS * (1 + len(channels) // len(_OTHERS)))
    for channel in channels:
        yield _ALONE if len(channels) == 1 else _COLOURS.get(channel) or next(others)


def shown_ranges(tiles: Iterable[NDArray[Any]]) -> list[tuple[float, float]]:
    """Lowest and highest shown value of each channel of `tiles`, each (channel, …, y, x): all but a thousandth of the
    pixels lie above, and all but a thousandth below. Of large tiles some rows and columns are looked at.
    """
    return ranges_of([few_pixels(tile) for tile in tiles])


def ranges_of(looked_at: Sequence[NDArray[Any]]) -> list[tuple[float, float]]:
    """The same of what `few_pixels` gives of each tile."""
    found = []
    for channel in range(len(looked_at[0])):
        pixels = np.concatenate([tile[channel].ravel() for tile in looked_at])
        low, high = np.quantile(pixels, [_SHARE_BEYOND, 1 - _SHARE_BEYOND])
        found.append((float(low), float(max(high, low + 1))))
    return found


def few_pixels(tile: NDArray[Any]) -> NDArray[Any]:
    """Every n-th row and column, so that a plane has some `_PIXELS_LOOKED_AT`; the tile itself is not kept."""
    step = max(1, math.isqrt(tile.shape[-2] * tile.shape[-1] // _PIXELS_LOOKED_AT))
    return tile[..., ::step, ::step].copy()


def sample_positions(n_tiles: int) -> list[int]:
    """Positions of the tiles that the shown ranges are taken from, spread over all."""
    spread = np.linspace(0, n_tiles - 1, min(n_tiles, _TILES_LOOKED_AT)).astype(int)
    return sorted({int(at) for at in spread})


def stored_ome(location: Location, path: str) -> dict[str, Any]:
    """`ome` of a stored group, empty where it has none."""
    return dict(read_attrs(location, path).get(n.OME, {}))


def stored_sides(location: Location) -> dict[str, float]:
    """`pixel_sides` of the images as their `ome` tells them."""
    found: dict[str, float] = {}
    for one in stored_ome(location, n.IMAGES).get("multiscales", [])[:1]:
        (scale,) = one["datasets"][0]["coordinateTransformations"]
        for axis, side in zip(one["axes"], scale["scale"], strict=True):
            found |= {axis["name"]: side} if "unit" in axis else {}
    return found


def describe(location: Location, path: str, ome: Mapping[str, Any]) -> None:
    """Makes `ome` what the group says of itself; nothing is written where it says so already."""
    if stored_ome(location, path) != ome:
        with explain_write_errors(f"{location.url}/{path}"):
            open_writable(location, path).attrs[n.OME] = dict(ome)


def _unit(dim: str, sides: Mapping[str, float]) -> dict[str, str]:
    return {"unit": "micrometer"} if dim in sides else {}


def _placed(dims: Sequence[str], sides: Mapping[str, float], level: int) -> list[dict[str, Any]]:
    """Size of a pixel, and where its middle lies: joined pixels begin half of one further on than the first of them."""
    factor = {dim: 2.0**level if dim in (n.Y, n.X) else 1.0 for dim in dims}
    scale = [sides.get(dim, 1.0) * factor[dim] for dim in dims]
    if not level:
        return [{"type": "scale", "scale": scale}]
    shift = [sides.get(dim, 1.0) * (factor[dim] - 1) / 2 for dim in dims]
    return [{"type": "scale", "scale": scale}, {"type": "translation", "translation": shift}]
