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
from fintune_xr.store.raw.readers.grey import (
    ORIENTATION_TAG,
    UPRIGHT,
    counts_of_palette,
    is_on_its_side,
    single_plane,
    upright,
)
from fintune_xr.store.raw.readers.header import Header, check_header, page_index

_DTYPES: Final = {"1": "bool", "L": "uint8", "P": "uint8", "I;16": "uint16", "I;16B": "uint16", "I": "int32"}
_COLOURS: Final = "RGB"
_TIMES: Final = {"L;2": 85, "L;4": 17}
_GREY_IN_COLOURS: Final = ("RGB", "RGBA", "LA")
# Bytes of a PNG before its first chunk, and of a chunk before and behind its content; chunks that may hold words.
_PNG_SIGNATURE, _CHUNK_HEAD, _CHUNK_SUM = 8, 8, 4
_WORDS: Final = frozenset({b"eXIf", b"iTXt", b"tEXt", b"zTXt"})
_RAW_PROFILE: Final = "Raw profile type exif"
_LAST_BYTES: Final = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}


def raster_header(file: BinaryIO, *, page: int | None, dtypes: Collection[str], channels: bool = False) -> Header:
    """Size and dtype of the image, without decoding; with `channels`, red, green and blue count as pages.

    Raises TileReadError for what is neither PNG nor JPEG, truncated, colour, or of another dtype.
    """
    with open_raster(file) as image:
        return _header(image, page, dtypes, channels=channels)


def raster_planes(
    file: BinaryIO, *, pages: Sequence[int], dtypes: Collection[str], channels: bool
) -> list[NDArray[Any]]:
    """Pixels (y, x) of each of `pages`, the image decoded once. Raises TileReadError as `raster_plane` does."""
    with open_raster(file) as image:
        times = spread(image) if _are_labels(dtypes) else 1
        headers = [_header(image, page, dtypes, channels=channels) for page in pages]
        pixels = _pixels(image, dtypes, channels=channels)
        pixels = pixels if times == 1 else pixels // times
        planes = [pixels[..., page_index(page, pixels.shape[2])] if pixels.ndim == 3 else pixels for page in pages]
        return [np.ascontiguousarray(plane).astype(headers[0].dtype, copy=False) for plane in planes]


def raster_plane(file: BinaryIO, *, page: int | None, dtypes: Collection[str], channels: bool = False) -> NDArray[Any]:
    """Pixels (y, x) of the image, its top row first; labels of a palette image are its numbers.

    Raises TileReadError as `raster_header` does, and where the pixels cannot be decoded.
    """
    return raster_planes(file, pages=[page or 0], dtypes=dtypes, channels=channels)[0]


def _pixels(image: Image.Image, dtypes: Collection[str], *, channels: bool) -> NDArray[Any]:
    pixels = np.asarray(image)
    if image.mode == "P" and not _are_labels(dtypes):
        pixels = counts_of_palette(pixels, np.asarray(image.getpalette("RGB"), np.uint8).reshape(-1, 3))
    elif pixels.ndim == 3 and not channels:
        pixels = single_plane(pixels, has_alpha=image.mode.endswith("A"))
    return upright(pixels, orientation(image))


def _are_labels(dtypes: Collection[str]) -> bool:
    return "bool" in dtypes


@contextmanager
def open_raster(file: BinaryIO) -> Iterator[Image.Image]:
    """The image, once it is a complete PNG or JPEG; raises TileReadError for anything that goes wrong inside."""
    try:
        with Image.open(file, formats=list(_LAST_BYTES)) as image:
            _check_ending(file, image.format or "")
            _spare_decoding(file, image)
            yield image
    except TileReadError:
        raise
    except UnidentifiedImageError as error:
        raise TileReadError("unreadable: expected a PNG or JPEG, found other content") from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise TileReadError(f"unreadable: truncated or damaged image ({str(error)[:120]})") from error


def orientation(image: Image.Image) -> int:
    """Which side of the picture the first row is, as Exif numbers it; 1 where nothing is said."""
    return int(image.getexif().get(ORIENTATION_TAG, UPRIGHT) or UPRIGHT)


def _check_ending(file: BinaryIO, kind: str) -> None:
    here = file.tell()
    file.seek(-min(64, file.seek(0, os.SEEK_END)), os.SEEK_END)
    complete = _LAST_BYTES[kind] in file.read()
    file.seek(here)
    if not complete:
        raise TileReadError(f"truncated: expected the end of a {kind}, found the file cut off")


def _spare_decoding(file: BinaryIO, image: Image.Image) -> None:
    """Tells Pillow that no words follow the pixels of a PNG, where none do.

    Asked for the orientation, it decodes the whole image to see whether some do. Names of chunks say it at once.
    """
    if image.format != "PNG" or "exif" in image.info or _RAW_PROFILE in image.info:
        return
    here, is_behind = file.tell(), False
    file.seek(_PNG_SIGNATURE)
    while len(head := file.read(_CHUNK_HEAD)) == _CHUNK_HEAD:
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        if is_behind and kind in _WORDS:
            break
        is_behind |= kind == b"IDAT"
        file.seek(size + _CHUNK_SUM, os.SEEK_CUR)
    else:
        image.info["exif"] = b""
    file.seek(here)


def _header(image: Image.Image, page: int | None, dtypes: Collection[str], *, channels: bool) -> Header:
    if image.mode == _COLOURS:
        # Before the orientation is asked for, which may decode the image: then its bits are no longer told.
        check_colours(image)
    height, width = (image.height, image.width)[:: -1 if is_on_its_side(orientation(image)) else 1]
    if channels and image.mode == _COLOURS:
        page_index(page or 0, len(_COLOURS))
        return check_header(Header(height, width, "uint8", len(_COLOURS), is_colour=True), dtypes)
    page_index(page, 1)
    mode = image.mode
    # Whether colours are one grey only the pixels tell; a colour image without any counts stays one.
    may_be_grey = not channels and mode in _GREY_IN_COLOURS and not _are_labels(dtypes)
    if may_be_grey and (_pixels(image, dtypes, channels=False).any() or mode != _COLOURS):
        mode = "L"
    if mode not in _DTYPES:
        expected = "grey, or red, green and blue" if channels else "one grey plane (y, x)"
        raise TileReadError(f"wrong shape: expected {expected}, found {mode} pixels")
    return check_header(Header(height, width, _DTYPES[mode], is_palette=mode == "P"), dtypes)


def spread(image: Image.Image) -> int:
    """What Pillow multiplies greys of two and of four bits by, so that the highest is white; to be asked first."""
    return max((_TIMES.get(form, 1) for form in stored_forms(image)), default=1)


def stored_forms(image: Image.Image) -> list[str]:
    """Pillow's names of the forms that pixels are stored in, such as `L;2`; none once the image is decoded."""
    coded = image.tile if isinstance(image, ImageFile.ImageFile) else []
    return [str(part) for tile in coded for part in np.atleast_1d(np.asarray(tile[3], object)).ravel()]


def check_colours(image: Image.Image) -> None:
    """Pillow gives 16-bit colours as their upper 8 bits, and a transparent colour as any other, and says neither.

    Raises TileReadError for both.
    """
    if any("16" in form for form in stored_forms(image)):
        raise TileReadError("wrong dtype: expected red, green and blue of 8 bits each, found 16 bits")
    if "transparency" in image.info:
        raise TileReadError("wrong shape: expected red, green and blue, found a transparent colour beside them")
