"""ND2 of Nikon, read by `nd2`: each position of the stage is a field."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.readers.fields import BY_HAND, COLOURS, Field, FieldFile, are_times, not_planes

_POSITION, _TIME, _DEPTH = "P", "T", "Z"
_OF_FRAMES: Final = ("C", "Y", "X", "S")
# Magic number, length of the name and of what follows it: the head of each chunk. nd2 gives zeros for frames that
# are not there, so that each one is looked for before.
_HEAD: Final = struct.Struct("<IIQ")
_MAGIC: Final = 0x0ABECEDA
# In front of the pixels of a frame that is not compressed: its time.
_STAMP_BYTES: Final = 8


@contextmanager
def opened_nd2(file: BinaryIO) -> Iterator[FieldFile]:
    """The fields of an ND2. Raises TileReadError for files of before 2007, which hold JPEG 2000."""
    import nd2

    with nd2.ND2File(file) as opened:
        if opened.is_legacy:
            raise TileReadError(f"unreadable: an ND2 of a program of before 2007. {BY_HAND}")
        yield _Nd2(opened, file)


class _Nd2:
    def __init__(self, opened: Any, file: BinaryIO) -> None:
        self._opened, self._file = opened, file
        self._loops = {name: int(length) for name, length in opened.sizes.items() if name not in _OF_FRAMES}
        # Before there is a list of them: what a damaged file says of their number may be anything.
        n_frames, there = math.prod(self._loops.values()), len(self._chunks)
        if n_frames > 2 * max(there, 1):
            raise TileReadError(f"truncated: expected {n_frames:,} frames, found {there:,}")

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        one = _field_of(self._opened, self._loops)
        named = [replace(one, name=name) for name in self._names_of_positions()]
        return tuple(self._with_frames(own, at) for at, own in enumerate(named))

    def _names_of_positions(self) -> list[str]:
        """What the program calls each position of the stage; empty where it was given no name."""
        points = [
            point for loop in self._opened.experiment if loop.type == "XYPosLoop" for point in loop.parameters.points
        ]
        n_positions = self._loops.get(_POSITION, 1)
        return [str(point.name or "") for point in points] if len(points) == n_positions else [""] * n_positions

    def pixels(self, field: int) -> NDArray[Any]:
        one = self.fields[field]
        shape = (one.channels, one.height, one.width)
        planes = [np.asarray(self._opened.read_frame(at)).reshape(shape) for at in self._frames(field)]
        return np.stack(planes, axis=1)

    def _with_frames(self, field: Field, at: int) -> Field:
        """The field at a position, whose fault is that frames of it are missing, where it has no other."""
        if field.fault:
            return field
        missing = [frame for frame in self._frames(at) if not self._is_there(frame, field)]
        if not missing:
            return field
        reason = f"truncated: frame {missing[0]} of the file is not there; was its recording stopped?"
        return Field(field.height, field.width, field.dtype, field.channels, fault=reason, name=field.name)

    def _frames(self, position: int) -> list[int]:
        """Numbers of the frames of a position, along z."""
        every = np.arange(math.prod(self._loops.values())).reshape(tuple(self._loops.values()))
        axis = list(self._loops).index(_POSITION) if _POSITION in self._loops else None
        return [int(frame) for frame in (every if axis is None else every.take(position, axis)).ravel()]

    @cached_property
    def _chunks(self) -> Mapping[bytes, tuple[int, int]]:
        """Where the frames lie in the file, by their names there."""
        chunks = self._opened._rdr.chunkmap
        return {name: place for name, place in chunks.items() if name.startswith(b"ImageDataSeq|")}

    def _is_there(self, frame: int, field: Field) -> bool:
        name = f"ImageDataSeq|{frame}!".encode()
        start = self._chunks.get(name, (-1, 0))[0]
        size = self._file.seek(0, os.SEEK_END)
        if not 0 <= start <= size - _HEAD.size:
            return False
        self._file.seek(start)
        magic, name_bytes, content = _HEAD.unpack(self._file.read(_HEAD.size))
        is_named = magic == _MAGIC and self._file.read(len(name)) == name
        is_compressed = self._opened.attributes.compressionType is not None
        least = 1 if is_compressed else field.height * field.width * field.channels * np.dtype(field.dtype).itemsize
        is_whole = content >= least + _STAMP_BYTES and start + _HEAD.size + name_bytes + content <= size
        return bool(is_named and is_whole)


def _field_of(opened: Any, loops: Mapping[str, int]) -> Field:
    attributes, channels = opened.attributes, opened.metadata.channels or []
    names = tuple(str(one.channel.name) for one in channels)
    n_channels = int(attributes.componentCount)
    return Field(
        int(attributes.heightPx),
        int(attributes.widthPx),
        np.dtype(opened.dtype).name,
        n_channels,
        loops.get(_DEPTH, 1),
        names if len(names) == n_channels else (),
        _side_um(channels),
        _fault(opened, loops),
    )


def _fault(opened: Any, loops: Mapping[str, int]) -> str:
    if opened.components_per_channel != 1:
        return COLOURS
    if loops.get(_TIME, 1) > 1:
        return are_times(loops[_TIME])
    others = [name for name in loops if name not in (_POSITION, _TIME, _DEPTH)]
    return not_planes(others) if others else ""


def _side_um(channels: Any) -> tuple[float, float]:
    """Width and height of a pixel in um; 0 where the program was not told the objective."""
    volume = channels[0].volume if channels else None
    if volume is None or not all(volume.axesCalibrated[:2]):
        return 0.0, 0.0
    return float(volume.axesCalibration[0]), float(volume.axesCalibration[1])
