"""Single planes of TIFF files: the header without decoding, then the pixels, or a plain reason why not."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, BinaryIO, Final

import numpy as np
import tifffile
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.readers.contents import Contents
from fintune_xr.store.raw.readers.grey import ORIENTATION_TAG, UPRIGHT, is_on_its_side, upright
from fintune_xr.store.raw.readers.header import Header, check_header, page_index, shape_text
from fintune_xr.store.raw.readers.pixel_side import stated_side
from fintune_xr.store.raw.readers.plane_names import channel_names, own_name

_MINISWHITE: Final = 0
_PALETTE: Final = 3
_SIGNED_OFFSET: Final = -32768
# Kinds of extra samples that are opacity.
_OPACITY: Final = (1, 2)
# Red, green and blue; or their luminance and chroma, which are turned back where JPEG compressed them alone.
_YCBCR: Final = 6
_COLOURS: Final = (2, _YCBCR)
_JPEG: Final = (6, 7)
# Bits of NewSubfileType: a reduced copy of another page, and its mask of transparency.
_COPY_OR_MASK: Final = 1 | 4
# How the channels of a page are stored: one after the other, not pixel by pixel.
_SEPARATE: Final = 2

# What tifffile and the codecs of imagecodecs are seen to raise on damaged files.
_DAMAGE: Final = (
    ValueError,
    RuntimeError,
    struct.error,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    EOFError,
    MemoryError,
    AssertionError,
)


def tiff_header(file: BinaryIO, *, page: int | None, dtypes: Collection[str], channels: bool = False) -> Header:
    """Size, dtype and page count of one plane, with the file known to hold all the bytes it promises.

    `page` None means the first, and says nothing about the others. With `channels`, the channels of a file with a
    single page count as pages, whether they come first or last in it.

    Raises TileReadError for what is not a TIFF, truncated, colour, or of another dtype.
    """
    with open_tiff(file) as pages:
        return _header(pages, page or 0, _size(file), dtypes, channels=channels)[1]


def tiff_plane(file: BinaryIO, *, page: int | None, dtypes: Collection[str], channels: bool = False) -> NDArray[Any]:
    """Pixels (y, x) of one plane in native byte order; `page` None demands that there is only one.

    Raises TileReadError as `tiff_header` does, and where the pixels cannot be decoded.
    """
    with open_tiff(file) as pages:
        index = page_index(page, _n_channels(pages) if channels else len(pages))
        plane, header = _header(pages, index, _size(file), dtypes, channels=channels)
        pixels = _upright(plane, _pixels(plane, file), index)
    return _checked_shape(pixels, header)


def _upright(plane: Any, pixels: NDArray[Any], index: int) -> NDArray[Any]:
    """The channel `index` of the pixels of a page, or its only plane, as the picture is to be seen."""
    one = np.take(pixels, index, axis=channel_axis(plane)) if pixels.ndim == 3 else pixels
    return upright(one, orientation(plane))


def check_orientations(pages: Any) -> None:
    """Raises TileReadError where the planes of one image are to be turned in different ways, as where the tag is on the
    first page alone: nobody can tell which of them lie on each other.
    """
    ways = [orientation(page) for page in pages]
    if len(set(ways)) > 1:
        raise TileReadError(
            "orientation: the pages of one image are turned in different ways (tag Orientation: "
            f"{', '.join(map(str, ways))}). Write one tag on all of them, or turn the pixels and write none."
        )


def orientation(plane: Any) -> int:
    """Which side of the picture the first row is, as TIFF numbers it; 1 where nothing is said."""
    tag = plane.tags.get(ORIENTATION_TAG)
    return UPRIGHT if tag is None else int(tag.value)


def _pixels(plane: Any, file: BinaryIO) -> NDArray[Any]:
    """All pixels of a page; of a file in memory, those that are stored as they are are a view of its bytes."""
    if isinstance(file, Contents) and plane.is_final and plane.dataoffsets[0] % plane.dtype.itemsize == 0:
        stored = plane.dtype.newbyteorder(plane.parent.byteorder)
        flat = np.frombuffer(file.content, stored, math.prod(plane.shape), plane.dataoffsets[0])
        return flat.reshape(plane.shape)
    return np.asarray(plane.asarray(maxworkers=1))


def _decoded(plane: Any, file: BinaryIO, decoded: dict[int, NDArray[Any]]) -> NDArray[Any]:
    there = decoded.get(plane.index)
    return _pixels(plane, file) if there is None else there


def _checked_shape(pixels: NDArray[Any], header: Header) -> NDArray[Any]:
    if pixels.shape != (header.height, header.width):
        raise TileReadError(
            f"wrong shape: expected {header.height} x {header.width} as in the header, found {pixels.shape}"
        )
    return pixels.astype(header.dtype, copy=False)


def tiff_planes(file: BinaryIO, *, pages: Sequence[int], dtypes: Collection[str], channels: bool) -> list[NDArray[Any]]:
    """Pixels (y, x) of each of `pages`; a page that holds several of them is decoded once.

    Raises TileReadError as `tiff_plane` does.
    """
    found = []
    with open_tiff(file) as stored:
        count = _n_channels(stored) if channels else len(stored)
        decoded: dict[int, NDArray[Any]] = {}
        for page in pages:
            plane, header = _header(stored, page_index(page, count), _size(file), dtypes, channels=channels)
            pixels = decoded.setdefault(plane.index, _decoded(plane, file, decoded))
            found.append(_checked_shape(_upright(plane, pixels, page), header))
    return found


@contextmanager
def open_tiff(file: BinaryIO) -> Iterator[Any]:
    """The pages of a TIFF; raises TileReadError for anything that goes wrong inside."""
    try:
        file.seek(0)
        # OME metadata may send the reader to other files; one plane of this file is all that is wanted.
        with _warnings_unless_refused(), tifffile.TiffFile(file, is_ome=False) as tif:
            if len(tif.pages) > 1:
                _check_last_page(tif)
            elif len(tif.pages) == 1:
                _check_no_stack(tif)
            yield tif.pages
    except TileReadError:
        raise
    except tifffile.TiffFileError as error:
        raise TileReadError(f"unreadable: expected a TIFF, found {str(error)[:120]}") from error
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {error}"
        raise TileReadError(f"unreadable: truncated or damaged TIFF ({reason[:120]})") from error


# What tifffile has warned of in this thread, while it is not known whether the file is refused.
_HELD: ContextVar[list[logging.LogRecord] | None] = ContextVar("held", default=None)


@contextmanager
def _warnings_unless_refused() -> Iterator[None]:
    """Lets tifffile warn when the block has ended, and not where it ends with an error, which says what is wrong."""
    _hold_warnings()
    held: list[logging.LogRecord] = []
    token = _HELD.set(held)
    try:
        yield
    finally:
        _HELD.reset(token)
    for record in held:
        tifffile.logger().handle(record)


@functools.cache
def _hold_warnings() -> None:
    def hold(record: logging.LogRecord) -> bool:
        held = _HELD.get()
        if held is not None:
            held.append(record)
        return held is None

    tifffile.logger().addFilter(hold)


def _check_last_page(tif: tifffile.TiffFile) -> None:
    """Of a stack that is cut off, tifffile gives the pages that are left: the last one must point to no other."""
    form, file = tif.tiff, tif.filehandle
    start = tif.pages[len(tif.pages) - 1].offset
    file.seek(start)
    (n_tags,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
    file.seek(start + form.tagnosize + n_tags * form.tagsize)
    (following,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
    if following:
        raise TileReadError(f"truncated: expected a page behind the {len(tif.pages)} found, at byte {following:,}")


def _check_no_stack(tif: tifffile.TiffFile) -> None:
    """Refuses a stack behind a single directory, of which one plane alone would be read.

    ImageJ writes those of more than 4 GB so, tifffile those that it was asked to write without their directories.
    """
    told = (tif.imagej_metadata or {}).get("images", 1) if tif.is_imagej else 1
    if told > 1:
        raise TileReadError(f"wrong shape: expected one plane, found an ImageJ stack of {told}")
    if not tif.is_shaped or _tells_own_shape(tif.pages[0]):
        return
    shaped: dict[str, Any] = dict((tif.shaped_metadata or ({},))[0])
    if math.prod(shaped.get("shape", ())) > tif.pages[0].size:
        raise TileReadError(
            f"wrong shape: the file says that it holds {shape_text(shaped['shape'])} values behind the directory of "
            "one page alone (tifffile's truncate). Write it with all of its pages, or as the plane that is meant."
        )


def _tells_own_shape(page: Any) -> bool:
    """Whether tifffile wrote beside a page that it is as large as it is, and no more.

    Most do; to ask tifffile makes it look for all series that pages may form, which takes a quarter of opening a file.
    """
    with contextlib.suppress(ValueError):
        told = json.loads(page.shaped_description)
        return isinstance(told, dict) and told.get("shape") == list(page.shape)
    return False


def _header(pages: Any, index: int, size: int, dtypes: Collection[str], *, channels: bool) -> tuple[Any, Header]:
    if len(pages) == 0:
        raise TileReadError("truncated: expected at least one image directory, found none")
    n_pages = _n_channels(pages) if channels else len(pages)
    page_index(index, n_pages)
    is_joined = n_pages != len(pages)
    if channels:
        check_orientations(pages)
    plane = pages[0 if is_joined else index]
    _check_is_picture(pages, plane)
    _check_samples(plane, dtypes)
    _check_calibration(plane, dtypes)
    _check_one_plane(plane, shape=_shape(plane) if is_joined else plane.shape)
    height, width = _shape(plane) if is_joined else plane.shape
    if is_on_its_side(orientation(plane)):
        height, width = width, height
    is_colour = is_joined and n_pages == 3 and int(plane.photometric) in _COLOURS
    names = channel_names(pages) if channels and n_pages > 1 else ()
    kind = np.dtype(plane.dtype).name
    side, doubt = stated_side(pages, plane)
    own = own_name(pages) if n_pages == 1 else ""
    told = Header(height, width, kind, n_pages, side, is_colour=is_colour, names=names, doubt=doubt, own_name=own)
    header = check_header(told, dtypes)
    _check_complete(plane, size)
    return plane, header


def _n_channels(pages: Any) -> int:
    """Pages of the file, or channels of its only page."""
    only = pages[0] if len(pages) == 1 else None
    if only is None or len(only.shape) != 3 or only.samplesperpixel < 2:
        return len(pages)
    return int(only.samplesperpixel)


def channel_axis(page: Any) -> int:
    """The axis of a page's pixels along which its channels lie."""
    return 0 if int(page.planarconfig) == _SEPARATE else 2


def _shape(page: Any) -> tuple[int, ...]:
    """Height and width of a page that holds several channels."""
    axis = channel_axis(page)
    return tuple(length for at, length in enumerate(page.shape) if at != axis)


def _check_is_picture(pages: Any, plane: Any) -> None:
    """Refuses a page that says it is a smaller copy or a mask of transparency of another page."""
    if len(pages) > 1 and int(plane.subfiletype) & _COPY_OR_MASK:
        raise TileReadError(
            f"wrong number of planes: page {plane.index} says that it is a reduced copy or a mask of another page "
            "(NewSubfileType), and no plane of its own. Save the file without it."
        )


def _check_samples(plane: Any, dtypes: Collection[str]) -> None:
    """Refuses opacity beside a channel, and numbers of a palette, in images; labels and class masks may be numbers."""
    if any(int(kind) in _OPACITY for kind in plane.extrasamples):
        raise TileReadError("wrong number of planes: one of them is opacity (alpha), which is no channel")
    if int(plane.photometric) == _YCBCR and int(plane.compression) not in _JPEG:
        raise TileReadError(
            "colours: the pixels are luminance and chroma (YCbCr), which JPEG alone turns back into red, green and "
            "blue. Save the image as RGB."
        )
    if int(plane.photometric) == _PALETTE and "bool" not in dtypes:
        raise TileReadError(
            "palette: its numbers name colours, and are no counts. Save the image in grey, without a palette."
        )


def _check_calibration(plane: Any, dtypes: Collection[str]) -> None:
    """Refuses signed numbers of ImageJ where signed ones are refused: it stores them 32768 higher, as it says aside."""
    told = (plane.parent.imagej_metadata or {}) if plane.parent.is_imagej else {}
    if "int16" not in dtypes and "bool" not in dtypes and told.get("c0") == _SIGNED_OFFSET:
        raise TileReadError(
            "wrong dtype: the numbers are signed ones that ImageJ has stored 32768 higher (calibration c0 = -32768). "
            "Save them as counts from 0 on: in ImageJ, Image, Type, 32-bit, then 16-bit without Scale When Converting."
        )


def _check_one_plane(plane: Any, *, shape: tuple[int, ...]) -> None:
    if plane.dtype is None:
        raise TileReadError(f"wrong dtype: {plane.bitspersample} bits per sample are not supported")
    if len(shape) != 2:
        raise TileReadError(f"wrong shape: expected one grey plane (y, x), found {plane.shape}")
    if int(plane.photometric) == _MINISWHITE and np.dtype(plane.dtype) != bool:
        raise TileReadError(
            "wrong dtype: expected black as zero, found an inverted image (white is zero). "
            "Save it with black as zero: in ImageJ, Image, Lookup Tables, Grays, once cells are the bright ones."
        )


def _check_complete(plane: Any, size: int) -> None:
    """Every strip or tile is there, not empty, and inside the file: tifffile would fill gaps silently."""
    offsets, counts = plane.dataoffsets, plane.databytecounts
    if plane.is_contiguous:
        end = offsets[0] + plane.nbytes
    else:
        expected = math.prod(plane.chunked)
        if len(offsets) != expected or len(counts) != expected:
            raise TileReadError(f"unreadable: expected {expected} strips of pixels, found {len(offsets)}")
        if 0 in counts or 0 in offsets:
            raise TileReadError("truncated: a strip or tile of pixels is missing")
        end = max(offset + count for offset, count in zip(offsets, counts, strict=True))
    if end > size:
        raise TileReadError(f"truncated: expected {end:,} bytes, found {size:,}")


def _size(file: BinaryIO) -> int:
    here = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(here)
    return size
