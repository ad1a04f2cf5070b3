"""LIF of Leica, read by `liffile`: each series of the project is a field."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.readers.fields import BY_HAND, COLOURS, Field, FieldFile, are_times, not_planes

_UM_IN_M: Final = 1e6
_TIME, _CHANNEL, _DEPTH, _COLOUR = "T", "C", "Z", "S"
_PLANE: Final = ("Y", "X")
_CHANNELS: Final = "./Data/Image/ImageDescription/Channels/ChannelDescription"


@contextmanager
def opened_lif(file: BinaryIO) -> Iterator[FieldFile]:
    """The fields of a LIF. Raises TileReadError where two of them have one name in one folder of its project."""
    import liffile

    with liffile.LifFile(file) as opened:
        _check_names(opened.xml_element)
        yield _Lif(opened, file.seek(0, os.SEEK_END))


def _check_names(project: Any) -> None:
    """Of series of one name the library would give the last alone."""
    times = Counter(_paths(project))
    twice = [path for path, found in times.items() if found > 1]
    if twice:
        raise TileReadError(
            f"series: {times[twice[0]]} are called {twice[0]!r}, of which one alone could be read. Give each a name of "
            f"its own in LAS X. {BY_HAND}"
        )


def _paths(folder: Any, above: str = "") -> Iterator[str]:
    """Names of all series under a folder of the project, with those of the folders that they lie in."""
    for element in folder.findall("./Children/Element") or folder.findall("./Element"):
        path = f"{above}{element.get('Name')}"
        if element.find("./Data/Image") is not None:
            yield path
        yield from _paths(element, f"{path}/")


class _Lif:
    def __init__(self, opened: Any, size: int) -> None:
        self._images, self._size = list(opened.images), size

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        return tuple(replace(_field_of(image, self._size), name=str(image.path)) for image in self._images)

    def pixels(self, field: int) -> NDArray[Any]:
        image = self._images[field]
        lengths = dict(zip(image.dims, image.shape, strict=True))
        order = [axis for axis in (_CHANNEL, _DEPTH, *_PLANE) if axis in lengths]
        pixels = np.asarray(image.asarray())
        # Axes of length 1, which some programs write, hold nothing more.
        pixels = pixels.squeeze(tuple(at for at, axis in enumerate(image.dims) if axis not in order))
        pixels = np.moveaxis(pixels, [_place(image.dims, order, axis) for axis in order], range(len(order)))
        return pixels.reshape(*(lengths.get(axis, 1) for axis in (_CHANNEL, _DEPTH, *_PLANE)))


def _place(dims: Any, kept: list[str], axis: str) -> int:
    return [one for one in dims if one in kept].index(axis)


def _field_of(image: Any, size: int) -> Field:
    if image.is_flim:
        return Field(0, 0, "", fault=f"wrong shape: times of photons (FLIM), and no picture. {BY_HAND}")
    lengths = dict(zip(image.dims, map(int, image.shape), strict=True))
    n_channels = lengths.get(_CHANNEL, 1)
    return Field(
        lengths.get("Y", 0),
        lengths.get("X", 0),
        np.dtype(image.dtype).name,
        n_channels,
        lengths.get(_DEPTH, 1),
        _names(image, n_channels),
        (_step_um(image, "X"), _step_um(image, "Y")),
        _fault(image, lengths, size),
    )


def _fault(image: Any, lengths: dict[str, int], size: int) -> str:
    if lengths.get(_COLOUR, 1) > 1:
        return COLOURS
    if tuple(axis for axis in image.dims if axis in (*_PLANE, _DEPTH))[-2:] != _PLANE:
        return f"wrong shape: expected planes of y and x, found {', '.join(image.dims)}: a scan along z? {BY_HAND}"
    if lengths.get(_TIME, 1) > 1:
        return are_times(lengths[_TIME])
    known = (_CHANNEL, _DEPTH, _COLOUR, _TIME, *_PLANE)
    others = [axis for axis, length in lengths.items() if axis not in known and length > 1]
    if others:
        return not_planes([{"M": "tiles of a mosaic (M)"}.get(axis, axis) for axis in others])
    return _not_whole(image, size)


def _not_whole(image: Any, size: int) -> str:
    """That pixels are missing; of a series that was begun and not recorded the block is empty."""
    block, expected = image.memory_block, int(image.nbytes)
    found = max(min(int(block.size), size - int(block.offset)), 0)
    if found < min(int(block.size), expected) or not block.size:
        return f"truncated: expected {expected:,} bytes of pixels, found {found:,}"
    return ""


def _names(image: Any, n_channels: int) -> tuple[str, ...]:
    """The dyes of the channels, where LAS X was told one for each; else it names only the colours of its display."""
    channels = sorted(image.xml_element.findall(_CHANNELS), key=lambda one: int(one.get("BytesInc", 0)))
    dyes = [_dye(channel) for channel in channels]
    return tuple(dyes) if all(dyes) and len(dyes) == n_channels else ()


def _dye(channel: Any) -> str:
    for told in channel.findall("ChannelProperty"):
        if (told.findtext("Key") or "").strip() == "DyeName":
            return (told.findtext("Value") or "").strip()
    return ""


def _step_um(image: Any, axis: str) -> float:
    """Distance of pixels along an axis in um: the file tells that of the first to the last."""
    places = image.coords.get(axis)
    if places is None or len(places) < 2:
        return 0.0
    return abs(float(places[-1]) - float(places[0])) / (len(places) - 1) * _UM_IN_M
