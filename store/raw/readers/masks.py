"""Masks as they were drawn: palettes, polarity and orientation applied, grey out of colours, whole floats."""

from __future__ import annotations

import io
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.readers import raster, tiff
from fintune_xr.store.raw.readers.grey import shown_in_grey, single_plane, upright
from fintune_xr.store.raw.readers.header import LABEL_DTYPES

_MINISWHITE: Final = 0
_PALETTE: Final = 3
# JPEG in its old and new form: neighbouring values run into each other.
_LOSSY: Final = (6, 7, 34892)
_FLOATS: Final = ("float16", "float32", "float64")
_GREY: Final = ("1", "L", "I;16", "I;16B", "I")


def decoded_mask(content: bytes, path: str, page: int | None = None) -> NDArray[Any]:
    """The label image (y, x) in the bytes of a TIFF or PNG, integers or bool; `page` as in `read_plane`.

    Numbers of a palette are labels where number 0 is drawn black; a palette of greys alone is applied instead. Floats
    are taken where they are whole numbers.

    Raises TileReadError for colours that differ, lossy compression, values between labels, and damage.
    """
    memory = io.BytesIO(content)
    is_tiff = PurePosixPath(path).suffix.lower() in (".tif", ".tiff")
    return _whole(_of_tiff(memory, page) if is_tiff else _of_raster(memory))


def decoded_colours(content: bytes, path: str) -> NDArray[np.uint8]:
    """Red, green and blue (y, x, colour) of the picture in the bytes of a TIFF or PNG; palettes and greys are colours.

    Raises TileReadError for other than 8 bits, for a transparency that differs by pixel, lossy compression, and damage.
    """
    memory = io.BytesIO(content)
    is_tiff = PurePosixPath(path).suffix.lower() in (".tif", ".tiff")
    return _seen_in_tiff(memory) if is_tiff else _seen_in_raster(memory)


def _seen_in_raster(file: io.BytesIO) -> NDArray[np.uint8]:
    with raster.open_raster(file) as image:
        if image.mode in ("RGB", "RGBA"):
            raster.check_colours(image)
        orientation = raster.orientation(image)
        if image.mode == "P":
            palette = np.asarray(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
            return _eight_bits(upright(_drawn(np.asarray(image), palette), orientation))
        if image.mode not in ("L", "LA", "RGB", "RGBA"):
            raise TileReadError(f"wrong shape: expected red, green and blue of 8 bits, found {image.mode} pixels")
        pixels = np.asarray(image)
        return _eight_bits(upright(_opaque(pixels, has_alpha=image.mode.endswith("A")), orientation))


def _seen_in_tiff(file: io.BytesIO) -> NDArray[np.uint8]:
    with tiff.open_tiff(file) as pages:
        if len(pages) != 1:
            raise TileReadError(f"wrong shape: expected one picture in colours, found {len(pages)} pages")
        page = pages[0]
        if int(page.compression) in _LOSSY:
            raise TileReadError("lossy mask: JPEG does not keep colours as they are. Save the masks without it.")
        pixels, orientation = np.asarray(page.asarray(maxworkers=1)), tiff.orientation(page)
        if int(page.photometric) == _PALETTE:
            return _eight_bits(upright(_drawn(pixels, _colormap(page)), orientation))
        if pixels.ndim == 3:
            pixels = np.moveaxis(pixels, tiff.channel_axis(page), -1)
        return _eight_bits(upright(_opaque(pixels, has_alpha=bool(page.extrasamples)), orientation))


def _drawn(numbers: NDArray[Any], palette: NDArray[Any]) -> NDArray[Any]:
    if int(numbers.max()) >= len(palette):
        raise TileReadError(f"unreadable: the palette has {len(palette)} colours, found number {numbers.max()}")
    drawn: NDArray[Any] = palette[numbers]
    return drawn


def _opaque(pixels: NDArray[Any], *, has_alpha: bool) -> NDArray[Any]:
    """The colours of pixels (y, x) or (y, x, sample), without an opacity that is the same everywhere."""
    if has_alpha and np.ptp(pixels[..., -1]) != 0:
        raise TileReadError("wrong shape: expected red, green and blue, found a transparency that differs by pixel")
    colours = pixels[..., :-1] if has_alpha else pixels
    return colours if colours.ndim == 3 else colours[..., None]


def _eight_bits(colours: NDArray[Any]) -> NDArray[np.uint8]:
    if colours.dtype != np.uint8 or colours.shape[-1] not in (1, 3):
        found = f"{colours.shape[-1]} of {colours.dtype}"
        raise TileReadError(f"wrong dtype: expected red, green and blue of 8 bits each, found {found}")
    return np.broadcast_to(colours, (*colours.shape[:2], 3))


def _of_raster(file: io.BytesIO) -> NDArray[Any]:
    with raster.open_raster(file) as image:
        times = raster.spread(image)
        orientation = raster.orientation(image)
        if image.mode == "P":
            palette = np.asarray(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
            return upright(_numbers(np.asarray(image), palette), orientation)
        if image.mode in ("RGB", "RGBA", "LA"):
            pixels = single_plane(np.asarray(image), has_alpha=image.mode.endswith("A"))
            return upright(pixels, orientation)
        if image.mode not in _GREY:
            raise TileReadError(f"wrong shape: expected one grey plane (y, x), found {image.mode} pixels")
        pixels = np.asarray(image)
        return upright(pixels if times == 1 else pixels // times, orientation)


def _of_tiff(file: io.BytesIO, page: int | None) -> NDArray[Any]:
    with tiff.open_tiff(file) as pages:
        plane = pages[page or 0] if len(pages) else None
        if plane is not None and int(plane.compression) in _LOSSY:
            raise TileReadError("lossy mask: JPEG does not keep labels as they are. Save the masks without it.")
        is_colour = plane is not None and len(pages) == 1 and plane.samplesperpixel > 1 and len(plane.shape) == 3
        is_inverted = plane is not None and int(plane.photometric) == _MINISWHITE and np.dtype(plane.dtype) == bool
        palette = _colormap(plane) if plane is not None and int(plane.photometric) == _PALETTE else None
        orientation = tiff.orientation(plane) if plane is not None else 1
    file.seek(0)
    if is_colour:
        return upright(_colours(file), orientation)
    pixels = tiff.tiff_plane(file, page=page, dtypes=(*LABEL_DTYPES, *_FLOATS))
    if palette is not None:
        return _numbers(pixels, palette)
    return ~pixels if is_inverted else pixels


def _colours(file: io.BytesIO) -> NDArray[Any]:
    with tiff.open_tiff(file) as pages:
        page = pages[0]
        pixels = np.moveaxis(np.asarray(page.asarray(maxworkers=1)), tiff.channel_axis(page), -1)
        has_alpha = bool(page.extrasamples)
    return single_plane(pixels, has_alpha=has_alpha)


def _colormap(plane: Any) -> NDArray[Any]:
    colormap = plane.colormap
    if colormap is None:
        raise TileReadError("unreadable: expected a palette, found none")
    return (np.asarray(colormap).T // 257).astype(np.uint8)


def _numbers(numbers: NDArray[Any], palette: NDArray[Any]) -> NDArray[Any]:
    """Labels of a palette image: its numbers, or the greys that it draws them in."""
    used = np.unique(numbers)
    if used[-1] < len(palette) and not np.ptp(palette[used].astype(np.int64), axis=1).any():
        return shown_in_grey(numbers, palette)
    if palette[0].any():
        raise TileReadError(
            f"wrong values: the palette draws number 0 in colour {tuple(map(int, palette[0]))}, expected black as the "
            "background. Save labels as grey numbers."
        )
    return numbers


def _whole(pixels: NDArray[Any]) -> NDArray[Any]:
    if pixels.dtype.kind != "f":
        return pixels
    if not np.isfinite(pixels).all():
        raise TileReadError("wrong values: expected labels, found pixels that are NaN or infinite")
    between = pixels[pixels != np.round(pixels)]
    if between.size and pixels.min() >= 0 and pixels.max() <= 1:
        raise TileReadError(
            f"scaled mask: all values lie between 0 and 1, such as {between[0]:.4g}: labels divided by a number, or "
            "probabilities. Save the labels as whole numbers."
        )
    if between.size:
        raise TileReadError(
            f"interpolated mask: {between.size:,} pixels lie between labels, such as {between[0]:g}. "
            "Export the masks in their own size, without interpolation."
        )
    return pixels.astype(np.int64)
