"""ImageJ's regions of interest, one in a .roi or many in a ZIP, as areas of pixels."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Final

import numpy as np
from roifile import ROI_TYPE, ImagejRoi

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.readers.drawings.painting import Drawn, ellipse, rectangle, ring

# A region is some kilobytes; beyond this in all, a ZIP holds something else, or is meant to fill the memory.
_MOST_BYTES: Final = 1 << 30
_OUTLINED: Final = (ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED)


def drawn_regions(content: bytes, suffix: str) -> Iterator[Drawn]:
    """The regions in the bytes of a `.roi` or `.zip`, called by their names, in the order of the file.

    As in ImageJ, a region holds the pixels whose middles it encloses.

    Raises TileReadError for lines, points and angles, which enclose nothing, and for what is no region.
    """
    if suffix == ".roi":
        yield _region(content)
        return
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.lower().endswith(".roi")]
            if sum(entry.file_size for entry in entries) > _MOST_BYTES:
                raise TileReadError("refused: regions of more than a gigabyte in one ZIP")
            if not entries and archive.namelist():
                raise TileReadError("unreadable: expected regions (.roi) in the ZIP, found none")
            for entry in entries:
                yield _region(archive.read(entry))
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, NotImplementedError) as error:
        raise TileReadError(f"unreadable: {str(error)[:120]}") from error


def _region(content: bytes) -> Drawn:
    try:
        roi = ImagejRoi.frombytes(content)
    except (ValueError, struct.error, IndexError, TypeError) as error:
        raise TileReadError(f"unreadable: no region of ImageJ ({str(error)[:80]})") from error
    return Drawn(str(roi.name), tuple(_rings(roi)))


def _rings(roi: ImagejRoi) -> Iterator[np.ndarray]:
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
