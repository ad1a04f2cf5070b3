"""Single planes of PNG and JPEG files, through the same two functions as TIFF."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.readers.header import Header, checked, page_index

_DTYPES: Final = {"1": "bool", "L": "uint8", "P": "uint8", "I;16": "uint16", "I;16B": "uint16", "I": "int32"}
_COLOURS: Final = "RGB"
_LAST_BYTES: Final = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}


def raster_header(file: BinaryIO, *, page: int | None, dtypes: Collection[str], channels: bool = False) -> Header:
    """Size and dtype of the image, without decoding; with `channels`, red, green and blue count as pages.

    Raises TileReadError for what is neither PNG nor JPEG, truncated, colour, or of another dtype.
    """
    with _image(file) as image:
        return _header(image, page, dtypes, channels=channels)


def raster_planes(
    file: BinaryIO, *, pages: Sequence[int], dtypes: Collection[str], channels: bool
) -> list[NDArray[Any]]:
    """Pixels (y, x) of each of `pages`, the image decoded once. Raises TileReadError as `raster_plane` does."""
    with _image(file) as image:
        headers = [_header(image, page, dtypes, channels=channels) for page in pages]
        pixels = np.asarray(image)
        planes = [pixels[..., page_index(page, pixels.shape[2])] if pixels.ndim == 3 else pixels for page in pages]
        return [np.ascontiguousarray(plane).astype(headers[0].dtype, copy=False) for plane in planes]


def raster_plane(file: BinaryIO, *, page: int | None, dtypes: Collection[str], channels: bool = False) -> NDArray[Any]:
    """Pixels (y, x) of the image; a palette image gives its indices.

    Raises TileReadError as `raster_header` does, and where the pixels cannot be decoded.
    """
    with _image(file) as image:
        header = _header(image, page, dtypes, channels=channels)
        pixels = np.asarray(image)
        if pixels.ndim == 3:
            pixels = pixels[..., page_index(page, pixels.shape[2])]
        return pixels.astype(header.dtype, copy=False)


@contextmanager
def _image(file: BinaryIO) -> Iterator[Image.Image]:
    try:
        with Image.open(file, formats=list(_LAST_BYTES)) as image:
            _check_ending(file, image.format or "")
            yield image
    except TileReadError:
        raise
    except UnidentifiedImageError as error:
        raise TileReadError("unreadable: expected a PNG or JPEG, found other content") from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise TileReadError(f"unreadable: truncated or damaged image ({str(error)[:120]})") from error


def _check_ending(file: BinaryIO, kind: str) -> None:
    here = file.tell()
    file.seek(-min(64, file.seek(0, os.SEEK_END)), os.SEEK_END)
    complete = _LAST_BYTES[kind] in file.read()
    file.seek(here)
    if not complete:
        raise TileReadError(f"truncated: expected the end of a {kind}, found the file cut off")


def _header(image: Image.Image, page: int | None, dtypes: Collection[str], *, channels: bool) -> Header:
    if channels and image.mode == _COLOURS:
        _check_colours(image)
        page_index(page or 0, len(_COLOURS))
        return checked(Header(image.height, image.width, "uint8", len(_COLOURS), is_colour=True), dtypes)
    page_index(page, 1)
    if image.mode not in _DTYPES:
        expected = "grey, or red, green and blue" if channels else "one grey plane (y, x)"
        raise TileReadError(f"wrong shape: expected {expected}, found {image.mode} pixels")
    return checked(Header(image.height, image.width, _DTYPES[image.mode], is_palette=image.mode == "P"), dtypes)


def _check_colours(image: Image.Image) -> None:
    """Pillow gives 16-bit colours as their upper 8 bits, and a transparent colour as any other, and says neither."""
    coded = image.tile if isinstance(image, ImageFile.ImageFile) else []
    if any("16" in str(part) for tile in coded for part in np.atleast_1d(np.asarray(tile[3], object)).ravel()):
        raise TileReadError("wrong dtype: expected red, green and blue of 8 bits each, found 16 bits")
    if "transparency" in image.info:
        raise TileReadError("wrong shape: expected red, green and blue, found a transparent colour beside them")
