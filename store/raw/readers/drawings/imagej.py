"""ImageJ's regions of interest, one in a .roi or many in a ZIP, as areas of pixels."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Final

import numpy as np
from roifile import ROI_SUBTYPE, ROI_TYPE, ImagejRoi

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.readers.drawings.painting import Drawn, check_one_plane, ellipse, rectangle, ring

# A region is some kilobytes; beyond this in all, a ZIP holds something else, or is meant to fill the memory.
_MOST_BYTES: Final = 1 << 30
# Boxes around words or pictures, which are drawn as rectangles.
_NO_AREAS: Final = (ROI_SUBTYPE.TEXT, ROI_SUBTYPE.ARROW, ROI_SUBTYPE.IMAGE)
_REMEDY: Final = "Save those of one plane, or take the planes away: ROI Manager, More, Remove Positions."
_OUTLINED: Final = (ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED)


def drawn_regions(content: bytes, suffix: str) -> Iterator[Drawn]:
    """The regions in the bytes of a `.roi` or `.zip`, called by their names, in the order of the file.

    As in ImageJ, a region holds the pixels whose middles it encloses. Groups are classes.

    Raises TileReadError for lines, points, angles and words, which enclose nothing, for regions in several planes of a
    stack, and for what is no region.
    """
    regions = [_region(one) for one in _stored(content, suffix)]
    check_one_plane(((one.position, one.z_position, one.t_position) for one in regions), _REMEDY)
    for one in regions:
        # Groups, counted from 1 on, are how ImageJ tells kinds of regions apart.
        yield Drawn(str(one.name), tuple(_rings(one)), of_class=f"group {one.group}" if one.group else "")


def _stored(content: bytes, suffix: str) -> Iterator[bytes]:
    """The bytes of each region of a file."""
    if suffix == ".roi":
        yield content
        return
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.lower().endswith(".roi")]
            if sum(entry.file_size for entry in entries) > _MOST_BYTES:
                raise TileReadError("refused: regions of more than a gigabyte in one ZIP")
            if not entries and archive.namelist():
                raise TileReadError("unreadable: expected regions (.roi) in the ZIP, found none")
            for entry in entries:
                yield archive.read(entry)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, NotImplementedError) as error:
        raise TileReadError(f"unreadable: {str(error)[:120]}") from error


def _region(content: bytes) -> ImagejRoi:
    try:
        return ImagejRoi.frombytes(content)
    except (ValueError, struct.error, IndexError, TypeError) as error:
        raise TileReadError(f"unreadable: no region of ImageJ ({str(error)[:80]})") from error


def _rings(roi: ImagejRoi) -> Iterator[np.ndarray]:
    if roi.subtype in _NO_AREAS:
        raise TileReadError(f"no area: region {roi.name!r} is a box around words or a picture ({roi.subtype.name})")
    if roi.composite:
        for one in roi.coordinates(multi=True):
            yield ring(one)
    elif roi.roitype == ROI_TYPE.RECT:
        yield rectangle(roi.left, roi.top, roi.right, roi.bottom)
    elif roi.roitype == ROI_TYPE.OVAL:
        middle = ((roi.left + roi.right) / 2, (roi.top + roi.bottom) / 2)
        yield ellipse(middle, ((roi.right - roi.left) / 2, (roi.bottom - roi.top) / 2))
    elif roi.roitype in _OUTLINED:
        yield ring(roi.coordinates())
    else:
        raise TileReadError(f"no area: region {roi.name!r} is of the kind {roi.roitype.name}, which encloses nothing")
