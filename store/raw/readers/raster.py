"""Single planes of PNG and JPEG files, through the same two functions as TIFF."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

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
        page_index(page or 0, len(_COLOURS))
        return checked(Header(image.height, image.width, "uint8", len(_COLOURS)), dtypes)
    page_index(page, 1)
    if image.mode not in _DTYPES:
        raise TileReadError(f"wrong shape: expected one grey plane (y, x), found {image.mode} pixels")
    return checked(Header(image.height, image.width, _DTYPES[image.mode]), dtypes)
