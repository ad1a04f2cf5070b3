"""Which pages of a TIFF are the planes along z of which channel, as OME-XML and ImageJ tell it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.readers.ome_xml import has_ome, pixels_of
from fintune_xr.store.raw.readers.plane_names import names_of_stack

_Z_FIRST: Final = "ZC"


@dataclass(frozen=True, slots=True)
class Stack:
    """Pages of each channel of a file, in their order along z, and the names of the channels where it tells them."""

    pages: tuple[tuple[int, ...], ...]
    names: tuple[str, ...] = ()

    @property
    def depth(self) -> int:
        """Planes of each channel."""
        return len(self.pages[0])


@dataclass(frozen=True, slots=True)
class _Sizes:
    """How many channels, planes and times there are, and whether planes follow each other before channels do."""

    channels: int
    planes: int
    times: int
    is_z_first: bool


def stack_of(pages: Any, n_channels: int) -> Stack:
    """The planes along z of `n_channels` channels in the pages of an opened TIFF.

    A file that tells nothing of its pages is a stack of one channel.

    Raises TileReadError where the file says that its pages are times or another number of channels, or tells nothing
    while there are several channels.
    """
    sizes = _told(pages) or _untold(pages, n_channels)
    if sizes.times > 1:
        raise TileReadError(f"wrong number of planes: the file says that they are times (T = {sizes.times}), not depth")
    if sizes.channels != n_channels:
        raise TileReadError(f"wrong number of planes: expected {n_channels} channel(s), found {sizes.channels}")
    if sizes.channels * sizes.planes != len(pages):
        raise TileReadError(
            f"wrong number of planes: the file says {sizes.channels} channel(s) of {sizes.planes} planes, found "
            f"{len(pages)} page(s)"
        )
    over_z, over_channels = (1, sizes.planes) if sizes.is_z_first else (sizes.channels, 1)
    found = tuple(
        tuple(channel * over_channels + plane * over_z for plane in range(sizes.planes))
        for channel in range(sizes.channels)
    )
    return Stack(found, names_of_stack(pages, [planes[0] for planes in found]) if n_channels > 1 else ())


def _told(pages: Any) -> _Sizes | None:
    description = str(getattr(pages[0], "description", "") or "")
    if has_ome(description):
        node = pixels_of(description)
        if node is None:
            return None
        channels, planes, times = (int(node.get(f"Size{axis}", 1)) for axis in "CZT")
        order = str(node.get("DimensionOrder", "XYZCT"))
        return _Sizes(channels, planes, times, "".join(axis for axis in order if axis in _Z_FIRST) == _Z_FIRST)
    tif = pages.parent
    told = tif.imagej_metadata if tif.is_imagej else None
    if not told:
        return None
    channels, times = (int(told.get(name, 1) or 1) for name in ("channels", "frames"))
    planes = int(told.get("slices", 0) or len(pages) // max(channels * times, 1))
    return _Sizes(channels, planes, times, is_z_first=False)


def _untold(pages: Any, n_channels: int) -> _Sizes:
    if n_channels > 1:
        raise TileReadError(
            f"wrong number of planes: the file does not tell which of its {len(pages)} pages are channels and which "
            "are depth; save it as OME-TIFF or from ImageJ"
        )
    return _Sizes(1, len(pages), 1, is_z_first=True)
