"""Single micrographs of MRC files, rows turned over so that the first one is the top of the picture.

MRC counts rows from the bottom of the picture, as cryo-EM programs show it; TIFF, PNG, JPEG and the coordinates that
CryoPPP publishes count from the top. Here every plane has its top row first: row r of what is returned is row
H - 1 - r of the array in the file.
Reference: Cheng et al. 2015, MRC2014: Extensions to the MRC format header, J. Struct. Biol. 192:146.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.readers.header import Header, check_header, page_index

_MODES: Final = {0: "int8", 1: "int16", 2: "float32", 6: "uint16", 12: "float16"}
_HEADER_BYTES: Final = 1024
# IMOD's stamp in the header, followed by its flags, of which the first means signed bytes.
_IMOD_AT: Final = 152
_IMOD: Final = 1146047817
_MOST_SIGNED: Final = 127
# Columns fastest, then rows, then sections; old files leave the three words empty.
_AXES: Final = ((1, 2, 3), (0, 0, 0))

# In angstrom: no micrograph is recorded with smaller pixels, or binned to larger ones. Sides may differ by rounding.
_LEAST_A: Final = 0.1
_MOST_A: Final = 100.0
_SQUARE: Final = 0.01


@dataclass(frozen=True, slots=True)
class _Sections:
    """Where the pixels are: the plane's header, the dtype as stored, and the first byte of the first section."""

    header: Header
    stored: np.dtype[Any]
    start: int

    @property
    def n_bytes(self) -> int:
        """Bytes of one section."""
        return self.header.height * self.header.width * self.stored.itemsize


def mrc_header(file: BinaryIO, *, page: int | None, dtypes: Collection[str]) -> Header:
    """Size, dtype and number of sections, with the file known to hold just the bytes that its header promises.

    Raises TileReadError for what is not an MRC, truncated, longer than it should be, or of another mode.
    """
    return _sections(file, page or 0, dtypes).header


def mrc_plane(file: BinaryIO, *, page: int | None, dtypes: Collection[str]) -> NDArray[Any]:
    """Pixels (y, x) of one section in native byte order, its top row first; `page` None demands that there is one.

    Raises TileReadError as `mrc_header` does, for a movie or a volume, and for pixels that are NaN or infinite.
    """
    sections = _sections(file, page or 0, dtypes)
    header = sections.header
    file.seek(sections.start + page_index(page, header.pages) * sections.n_bytes)
    pixels = np.frombuffer(file.read(sections.n_bytes), sections.stored).reshape(header.height, header.width)
    return np.ascontiguousarray(pixels[::-1]).astype(header.dtype, copy=False)


def _sections(file: BinaryIO, page: int, dtypes: Collection[str]) -> _Sections:
    words = _words(file)
    mode, size = int(words["mode"]), (int(words["ny"]), int(words["nx"]), int(words["nz"]))
    if mode not in _MODES:
        raise TileReadError(f"wrong dtype: expected MRC mode {', '.join(map(str, _MODES))}, found mode {mode}")
    extra = int(words["nsymbt"])
    if min(size) < 1 or extra < 0:
        raise TileReadError(f"unreadable: damaged MRC header: {size} rows, columns, sections; {extra} bytes more")
    axes = (int(words["mapc"]), int(words["mapr"]), int(words["maps"]))
    if axes not in _AXES:
        raise TileReadError(f"wrong shape: expected MRC axes columns, rows, sections (1, 2, 3), found {axes}")
    dtype = "uint8" if mode == 0 and _are_unsigned(file, words) else _MODES[mode]
    header = check_header(Header(*size[:2], dtype, size[2], _pixel_size_a(words)), dtypes)
    page_index(page, header.pages)
    stored = np.dtype(header.dtype).newbyteorder(words.dtype["mode"].byteorder)
    sections = _Sections(header, stored, _HEADER_BYTES + extra)
    _check_size(file, sections.start + header.pages * sections.n_bytes)
    return sections


def _are_unsigned(file: BinaryIO, words: Any) -> bool:
    """Whether bytes count from 0 to 255: IMOD's stamp and flag say it, else a range beyond what signed bytes hold."""
    file.seek(_IMOD_AT)
    stamp, flags = np.frombuffer(file.read(8), np.dtype("i4").newbyteorder(words.dtype["mode"].byteorder))
    if int(stamp) == _IMOD:
        return not int(flags) & 1
    return float(words["dmin"]) >= 0 and _MOST_SIGNED < float(words["dmax"]) <= 255


def _pixel_size_a(words: Any) -> float:
    """Side of a pixel in angstrom: the cell by its samples, as MRC2014 has it; 0 where that is empty or makes no sense.

    Programs that do not know it leave zeros; sizes beyond any microscope, or pixels that are no squares, are damage.
    """
    sides = []
    for axis in "xy":
        samples, cell = int(words[f"m{axis}"]), float(words["cella"][axis])
        sides.append(cell / samples if samples > 0 else 0.0)
    x, y = sides
    is_square = abs(x - y) <= _SQUARE * max(x, y)
    return round(x, 6) if is_square and _LEAST_A <= x <= _MOST_A else 0.0


def _words(file: BinaryIO) -> Any:
    """The 1024 bytes at the beginning of every MRC, in the byte order that its machine stamp tells."""
    from mrcfile.constants import MAP_ID
    from mrcfile.dtypes import HEADER_DTYPE
    from mrcfile.utils import byte_order_from_machine_stamp

    file.seek(0)
    content = file.read(_HEADER_BYTES)
    if len(content) < _HEADER_BYTES:
        raise TileReadError(f"truncated: expected the {_HEADER_BYTES} bytes of an MRC header, found {len(content)}")
    words = np.frombuffer(content, HEADER_DTYPE)[0]
    if bytes(words["map"])[:3] != MAP_ID[:3]:
        raise TileReadError("unreadable: expected an MRC, found no 'MAP' in the header")
    try:
        order = byte_order_from_machine_stamp(words["machst"])
    except ValueError as error:
        raise TileReadError(f"unreadable: damaged MRC header ({str(error)[:120]})") from error
    return np.frombuffer(content, HEADER_DTYPE.newbyteorder(order))[0]


def _check_size(file: BinaryIO, expected: int) -> None:
    found = file.seek(0, os.SEEK_END)
    if found < expected:
        raise TileReadError(f"truncated: expected {expected:,} bytes, found {found:,}")
    if found > expected:
        raise TileReadError(f"unreadable: the header of this MRC describes {expected:,} bytes, found {found:,}")
