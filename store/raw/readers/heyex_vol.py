"""Raw exports of Heidelberg Spectralis (`.vol`): B-scans of reflectivity, brought to the scale in which they are shown.

A file has a header of 2,048 bytes, the picture of the fundus (SLO), and for each B-scan a header with the boundaries
of the layers and its reflectivity as float32, 0 to 1. Spectralis shows the fourth root of it, and so it is read here;
values above 1 mean "no data" and become 0.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.readers.volume_header import VolumeHeader, checked_spacing, checked_volume, side_of

VERSIONS: Final = (b"HSF-OCT-101", b"HSF-OCT-102", b"HSF-OCT-103", b"HSF-XXX-102", b"HSF-XXX-103")
DEVICE: Final = "Heidelberg Spectralis"
_START: Final = 2048
_SIZES: Final = struct.Struct("<iii3dii")
_SIZES_AT: Final = 12
_SIDE_AT: Final = 84
_BLOCK_HEADER_AT: Final = 100
_DARKEST_NO_DATA: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Where the B-scans are: the first byte of the first block, bytes of a block's header, and of its pixels."""

    header: VolumeHeader
    start: int
    header_bytes: int

    @property
    def pixel_bytes(self) -> int:
        """Bytes of the pixels of one B-scan."""
        return 4 * self.header.height * self.header.width

    def pixels_at(self, frame: int) -> int:
        """First byte of the pixels of one B-scan."""
        return self.start + frame * (self.header_bytes + self.pixel_bytes) + self.header_bytes


def vol_header(file: BinaryIO, *, least_depth: int = 2) -> VolumeHeader:
    """Size, spacing in mm and side of a `.vol`, which is known to hold as many bytes as that takes.

    Raises TileReadError for what is no such file, of a version that is not known, or truncated.
    """
    return _blocks(file, least_depth).header


def vol_frames(file: BinaryIO, *, least_depth: int = 2) -> Iterator[NDArray[np.float32]]:
    """B-scans (y, x), the fourth root of reflectivity, 0 where there is no data.

    Raises TileReadError as `vol_header` does.
    """
    blocks = _blocks(file, least_depth)
    for frame in range(blocks.header.depth):
        file.seek(blocks.pixels_at(frame))
        raw = np.frombuffer(file.read(blocks.pixel_bytes), "<f4").reshape(blocks.header.shape[1:])
        yield _shown(raw)


def _shown(reflectivity: NDArray[Any]) -> NDArray[np.float32]:
    valid = (reflectivity >= 0) & (reflectivity <= _DARKEST_NO_DATA)
    return np.sqrt(np.sqrt(np.where(valid, reflectivity, 0.0))).astype(np.float32)


def _blocks(file: BinaryIO, least_depth: int) -> _Blocks:
    file.seek(0)
    head = file.read(_START)
    version = head[: len(VERSIONS[0])]
    if version[:4] not in (b"HSF-",):
        raise TileReadError("unreadable: expected a Heidelberg .vol, which begins with HSF-OCT")
    if version not in VERSIONS:
        known = ", ".join(one.decode() for one in VERSIONS)
        raise TileReadError(f"unreadable: expected a .vol of version {known}, found {version!r}")
    if len(head) < _START:
        raise TileReadError(f"truncated: expected a header of {_START} bytes, found {len(head)}")
    width, depth, height, scale_x, distance, scale_z, slo_x, slo_y = _SIZES.unpack_from(head, _SIZES_AT)
    (header_bytes,) = struct.unpack_from("<i", head, _BLOCK_HEADER_AT)
    if min(width, depth, height, slo_x, slo_y, header_bytes) < 0:
        raise TileReadError(f"unreadable: damaged header: {depth} B-scans of {height} x {width}")
    side = side_of(head[_SIDE_AT : _SIDE_AT + 4].split(b"\0")[0].decode("latin-1"))
    header = VolumeHeader(
        depth, height, width, "float32", checked_spacing((distance, scale_z, scale_x)), side, DEVICE
    )  # fmt: skip
    blocks = _Blocks(checked_volume(header, least_depth=least_depth), _START + slo_x * slo_y, header_bytes)
    _check_size(file, blocks)
    return blocks


def _check_size(file: BinaryIO, blocks: _Blocks) -> None:
    """Exports of newer versions end in a trailer, so that more bytes are no fault."""
    expected, found = blocks.pixels_at(blocks.header.depth - 1) + blocks.pixel_bytes, file.seek(0, os.SEEK_END)
    if found < expected:
        raise TileReadError(f"truncated: expected {expected:,} bytes, found {found:,}")
