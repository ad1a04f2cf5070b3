"""Raw exports of Heidelberg Spectralis (`.vol`): B-scans of reflectivity, brought to the scale in which they are shown.

A file has a header of 2,048 bytes, the picture of the fundus (SLO), and for each B-scan a header with the boundaries
of the layers and its reflectivity as float32, 0 to 1. Spectralis shows the fourth root of it, and so it is read here;
values above 1 mean "no data" and become 0.

The header of a B-scan also says from where to where it runs on the fundus. By that B-scans are ordered, wherever they
lie in the file, and scans that are no volume are known: circles, stars, lines at one place.
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
_PATTERN_AT: Final = 96
_CIRCLE: Final = 2
# Of a B-scan's header: x and y of both ends in mm, from the upper left corner of the picture of the fundus.
_ENDS: Final = struct.Struct("<4d")
_ENDS_AT: Final = 16
# Neighbours may be as much closer or farther than they are on average, and turn as much (the sine) against the first.
_EVEN: Final = 0.1
_PARALLEL: Final = 0.05
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

    def header_at(self, frame: int) -> int:
        """First byte of the header of one B-scan."""
        return self.start + frame * (self.header_bytes + self.pixel_bytes)

    def pixels_at(self, frame: int) -> int:
        """First byte of the pixels of one B-scan."""
        return self.header_at(frame) + self.header_bytes


def vol_header(file: BinaryIO, *, least_depth: int = 2) -> VolumeHeader:
    """Size, spacing in mm and side of a `.vol`, which is known to hold as many bytes as that takes.

    Raises TileReadError for what is no such file, of a version that is not known, or truncated.
    """
    return _blocks(file, least_depth).header


def vol_frames(file: BinaryIO, *, least_depth: int = 2) -> Iterator[NDArray[np.float32]]:
    """B-scans (y, x), the fourth root of reflectivity, 0 where there is no data.

    Each next one lies to the left of the direction in which they run, seen on the fundus: from below upwards where they
    run from left to right, as Spectralis scans. Where no B-scan tells its place they come as they lie in the file.

    Raises TileReadError as `vol_header` does, and where B-scans are not parallel and at even distances.
    """
    blocks = _blocks(file, least_depth)
    for frame in _order(_ends(file, blocks)):
        file.seek(blocks.pixels_at(frame))
        raw = np.frombuffer(file.read(blocks.pixel_bytes), "<f4").reshape(blocks.header.shape[1:])
        yield _shown(raw)


def _ends(file: BinaryIO, blocks: _Blocks) -> NDArray[np.float64]:
    """Where B-scans begin and end (frame, 2, 2), as x and y in mm; the header of a block may be too short for it."""
    found = np.zeros((blocks.header.depth, 2, 2))
    if blocks.header_bytes >= _ENDS_AT + _ENDS.size:
        for frame in range(blocks.header.depth):
            file.seek(blocks.header_at(frame) + _ENDS_AT)
            found[frame] = np.reshape(_ENDS.unpack(file.read(_ENDS.size)), (2, 2))
    return found


def _order(ends: NDArray[np.float64]) -> list[int]:
    """Frames in the order of their places; as they are where none tells its own, or there is but one.

    Raises TileReadError for B-scans that are no volume.
    """
    if len(ends) < 2 or not ends.any():
        return list(range(len(ends)))
    along = ends[:, 1] - ends[:, 0]
    lengths = np.linalg.norm(along, axis=1)
    if not np.isfinite(ends).all() or not lengths.all():
        raise TileReadError("wrong positions: expected where each B-scan begins and ends, found some without length")
    x, y = along[0] / lengths[0]
    is_other_way = along @ [x, y] < 0
    if (np.abs(along @ [y, -x]) > _PARALLEL * lengths).any() or is_other_way.any():
        raise TileReadError(
            "wrong positions: expected parallel B-scans, found some at an angle to the first, as in a star of lines. "
            "Export volume scans."
        )
    places = ends.mean(axis=1) @ [y, -x]
    order = np.argsort(places, kind="stable")
    steps = np.diff(places[order])
    if not steps.min() > 0 or np.abs(steps - steps.mean()).max() > _EVEN * steps.mean():
        raise TileReadError(
            f"wrong positions: expected B-scans at even distances, found steps from {steps.min():.4g} to "
            f"{steps.max():.4g} mm. Export volume scans that are complete."
        )
    return [int(frame) for frame in order]


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
    pattern, header_bytes = struct.unpack_from("<ii", head, _PATTERN_AT)
    if min(width, depth, height, slo_x, slo_y, header_bytes) < 0:
        raise TileReadError(f"unreadable: damaged header: {depth} B-scans of {height} x {width}")
    if pattern == _CIRCLE and depth > 1:
        raise TileReadError(f"wrong positions: expected a volume scan, found {depth} circles. Export volume scans.")
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
