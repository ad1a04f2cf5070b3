"""One face for all image files: the header, the plane, or the plane with the digest of the file's bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.readers import masks, mrc, raster, tiff
from fintune_xr.store.raw.readers.contents import read_contents
from fintune_xr.store.raw.readers.fields import Field, field_of_page
from fintune_xr.store.raw.readers.header import (
    IMAGE_DTYPES,
    LABEL_DTYPES,
    MICROGRAPH_DTYPES,
    Header,
    check_header,
    checked_pixels,
    shape_text,
)
from fintune_xr.store.raw.readers.microscope import opened_fields
from fintune_xr.store.raw.readers.z_planes import Stack, stack_of
from fintune_xr.store.raw.sources import Place, open_place
from fintune_xr.text import not_the_file

__all__ = [
    "IMAGE_DTYPES", "MICROGRAPH_DTYPES", "Field", "Header", "Stack", "joined_planes", "read_colours",
    "read_field_stacks", "read_fields", "read_header", "read_labels", "read_mask", "read_plane",
    "read_plane_with_digest", "read_planes_with_digest", "read_stack", "read_stacks_with_digest",
]  # fmt: skip


def read_header(
    place: Place, *, page: int | None = None, dtypes: Collection[str] = IMAGE_DTYPES, channels: bool = False
) -> Header:
    """Height, width, dtype and number of pages of an image file, without decoding a pixel.

    `page` names the plane that is described, the first by default. With `channels`, those of a colour image count
    as its pages.

    Raises TileReadError: no bytes, not the format of its name, truncated, colour, or a dtype not in `dtypes`.
    """
    with _opened(place) as file:
        kind = _format(place)
        if kind is tiff:
            return tiff.tiff_header(file, page=page, dtypes=dtypes, channels=channels)
        if kind is mrc:
            return mrc.mrc_header(file, page=page, dtypes=dtypes)
        return raster.raster_header(file, page=page, dtypes=dtypes, channels=channels)


def read_plane(place: Place, *, page: int | None = None, dtypes: Collection[str] = IMAGE_DTYPES) -> NDArray[Any]:
    """Pixels (y, x) of one plane, uint8 or uint16 by default, raw counts; the first row is the top of the picture.

    Raises TileReadError as `read_header` does; also for several pages where none is named, or damage.
    """
    return read_plane_with_digest(place, page=page, dtypes=dtypes)[0]


def read_labels(place: Place, *, page: int | None = None) -> tuple[NDArray[Any], str]:
    """Pixels (y, x) of a label image of any integer dtype or bool, and the SHA-256 of its file."""
    return read_plane_with_digest(place, page=page, dtypes=LABEL_DTYPES)


def read_mask(place: Place, *, page: int | None = None) -> tuple[NDArray[Any], str]:
    """Pixels (y, x) of a mask of instances as it was drawn, integers or bool, and the SHA-256 of its file.

    Raises TileReadError as `decoded_mask` does.
    """
    with _opened(place) as file:
        content = file.read()
        return masks.decoded_mask(content, str(place), page), hashlib.sha256(content).hexdigest()


def read_colours(place: Place) -> tuple[NDArray[np.uint8], str]:
    """Red, green and blue (y, x, colour) of a picture as it is seen, palettes applied, and the SHA-256 of its file.

    Raises TileReadError as `decoded_colours` does.
    """
    with _opened(place) as file:
        content = file.read()
        return masks.decoded_colours(content, str(place)), hashlib.sha256(content).hexdigest()


def read_plane_with_digest(
    place: Place, *, page: int | None = None, dtypes: Collection[str] = IMAGE_DTYPES, channels: bool = False
) -> tuple[NDArray[Any], str]:
    """Pixels (y, x) of one plane, and the SHA-256 of the very bytes they were decoded from.

    The file is read once; `channels` as in `read_header`. Raises TileReadError as `read_plane` does.
    """
    with _opened(place) as file:
        memory, kind = read_contents(file), _format(place)
        if kind is tiff:
            plane = tiff.tiff_plane(memory, page=page, dtypes=dtypes, channels=channels)
        elif kind is mrc:
            plane = mrc.mrc_plane(memory, page=page, dtypes=dtypes)
        else:
            plane = raster.raster_plane(memory, page=page, dtypes=dtypes, channels=channels)
        return checked_pixels(plane), memory.sha256


def read_stack(place: Place, *, channels: int) -> Stack:
    """Which pages of an image file are the planes along z of its channels; those of a PNG or JPEG are one plane.

    Raises TileReadError as `stack_of` does.
    """
    with _opened(place) as file:
        return _stack(place, file, channels)


def read_stacks_with_digest(
    place: Place, *, positions: Sequence[int], channels: int, dtypes: Collection[str] = IMAGE_DTYPES
) -> tuple[list[NDArray[Any]], str]:
    """Planes (z, y, x) of the channels at `positions` of a file of so many channels, and the SHA-256 of its bytes.

    Raises TileReadError as `read_stack` and `read_plane` do, and where planes differ in size or dtype.
    """
    with _opened(place) as file:
        memory = read_contents(file)
        stack, found = _stack(place, memory, channels), []
        for position in positions:
            pages = stack.pages[position]
            if _format(place) is tiff:
                planes = tiff.tiff_planes(memory, pages=pages, dtypes=dtypes, channels=False)
            else:
                planes = raster.raster_planes(memory, pages=pages, dtypes=dtypes, channels=False)
            found.append(joined_planes(planes))
        return found, memory.sha256


def read_fields(place: Place) -> tuple[Field, ...]:
    """The fields of a file of a microscope's program, without decoding a pixel.

    Raises TileReadError: no bytes, not the format of its name, or damaged; MissingPackageError where its reader is
    not installed.
    """
    with _opened(place) as file, opened_fields(place, file) as opened:
        return opened.fields


def read_field_stacks(
    place: Place, *, pages: Sequence[int], dtypes: Collection[str] = IMAGE_DTYPES
) -> list[NDArray[Any]]:
    """Pixels (z, y, x) of the channels `pages` of a file of a microscope's program, counted through all its fields.

    Raises TileReadError as `read_fields` does, for fields that are no tiles, and for another dtype.
    """
    with _opened(place) as file, opened_fields(place, file) as opened:
        found: list[NDArray[Any]] = []
        pixels: dict[int, NDArray[Any]] = {}
        fields = opened.fields
        for page in pages:
            at, channel = field_of_page(fields, page)
            field = fields[at]
            if field.fault:
                raise TileReadError(field.fault)
            header = check_header(Header(field.height, field.width, field.dtype), dtypes)
            if at not in pixels:
                pixels[at] = opened.pixels(at)
            found.append(np.ascontiguousarray(pixels[at][channel]).astype(header.dtype, copy=False))
        return found


def joined_planes(planes: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Planes (y, x) as one array (z, y, x). Raises TileReadError where they differ in size or dtype."""
    kinds = {(plane.shape, plane.dtype.name) for plane in planes}
    if len(kinds) > 1:
        listed = ", ".join(sorted(f"{shape_text(shape)} {dtype}" for shape, dtype in kinds))
        raise TileReadError(f"wrong shape: expected planes of one size and dtype, found {listed}")
    return np.stack(planes)


def _stack(place: Place, file: BinaryIO, channels: int) -> Stack:
    if _format(place) is tiff:
        with tiff.open_tiff(file) as pages:
            tiff.check_orientations(pages)
            return stack_of(pages, channels)
    if channels > 1:
        raise TileReadError(f"wrong number of planes: expected {channels} channels of planes along z, found one image")
    return Stack(((0,),))


def read_planes_with_digest(
    place: Place, *, pages: Sequence[int], dtypes: Collection[str] = IMAGE_DTYPES
) -> tuple[list[NDArray[Any]], str]:
    """Pixels (y, x) of each of `pages`, channels of a colour image being pages, and the SHA-256 of the file's bytes.

    The file is read once and its image decoded once. Raises TileReadError as `read_plane` does.
    """
    with _opened(place) as file:
        memory, kind = read_contents(file), _format(place)
        if kind is mrc:
            planes = [mrc.mrc_plane(memory, page=page, dtypes=dtypes) for page in pages]
        elif kind is tiff:
            planes = tiff.tiff_planes(memory, pages=pages, dtypes=dtypes, channels=True)
        else:
            planes = raster.raster_planes(memory, pages=pages, dtypes=dtypes, channels=True)
        return [checked_pixels(plane) for plane in planes], memory.sha256


def _format(place: Place) -> ModuleType:
    suffix = PurePosixPath(str(place)).suffix.lower()
    if suffix in (".tif", ".tiff"):
        return tiff
    if suffix in (".png", ".jpg", ".jpeg"):
        return raster
    if suffix == ".mrc":
        return mrc
    raise TileReadError(f"unreadable: expected .tif, .tiff, .png, .jpg or .mrc, found {suffix or 'no suffix'}")


@contextmanager
def _opened(place: Place) -> Iterator[BinaryIO]:
    """The opened file; whatever goes wrong inside carries its path."""
    try:
        with open_place(place) as file:
            # Not by reading a byte: what is buffered would be joined to the rest, which copies the whole file.
            if file.seek(0, os.SEEK_END) == 0:
                raise TileReadError("zero bytes: expected an image, found an empty file")
            file.seek(0)
            yield file
    except TileReadError as error:
        raise TileReadError(_instead(place, error.reason), str(place)) from error
    except OSError as error:
        raise TileReadError(f"unreadable: {error.strerror or error}", str(place)) from error


def _instead(place: Place, reason: str) -> str:
    """`reason`, or what lies in the place of an image that cannot be read."""
    if not reason.startswith(("unreadable", "truncated")):
        return reason
    try:
        with open_place(place) as file:
            found = not_the_file(file.read(512))
    except OSError:
        return reason
    return f"unreadable: {found}" if found else reason
