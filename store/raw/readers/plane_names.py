"""What a TIFF says its planes are: OME-XML and ImageJ tell depth and time from channels, and name the channels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.readers.ome_xml import has_ome, pixels_of, tag_of

# Names that programs give where nobody named anything.
_NO_NAME: Final = re.compile(r"(channel|ch|c|plane|page|slice)?[\s:_#-]*[\d:/\s_-]*", re.IGNORECASE)
# What stains nuclei, and names of dyes, lines and proteins that say nothing of the stain's target.
_NUCLEI: Final = re.compile(r"dapi|hoechst|nuclei|nucleus|dna", re.IGNORECASE)
_DYE: Final = re.compile(
    r"alexa|af ?-?\d|cy ?-?\d|fitc|tritc|tx ?red|texas|[gry]fp|mcherry|tomato|atto|dylight|marker|\d{3}", re.IGNORECASE
)


def channel_names(pages: Any) -> tuple[str, ...]:
    """Names of the channels of a file whose planes are channels, empty where it names none.

    Raises TileReadError where the planes are slices of depth or times, not channels.
    """
    tif = pages.parent
    description = str(getattr(pages[0], "description", "") or "")
    if has_ome(description):
        return told_names(_of_ome(description))
    told = tif.imagej_metadata if tif.is_imagej else None
    if not told:
        return ()
    _check_axes(int(told.get("slices", 1) or 1), int(told.get("frames", 1) or 1))
    labels = told.get("Labels") or []
    return told_names([str(label).splitlines()[0] if str(label) else "" for label in labels])


def own_name(pages: Any) -> str:
    """The name of the channel in OME-XML that tells of a single plane; empty where it tells of more, or has no name.

    ImageJ's labels of single planes are mostly names of files, and are not asked.
    """
    description = str(getattr(pages[0], "description", "") or "")
    pixels = pixels_of(description) if has_ome(description) else None
    if pixels is None:
        return ""
    names = told_names([node.get("Name", "") for node in pixels if tag_of(node) == "Channel"])
    return names[0] if len(names) == 1 else ""


def check_own_name(name: str, channel: str, channels: Sequence[str], *, marker: str) -> None:
    """Raises TileReadError where a file calls its plane after another of `channels` than its path does."""
    for other in channels:
        if name and other != channel and _is_after(name, other, marker) and not _is_called(name, channel, marker):
            raise TileReadError(
                f"channel names: the file calls its plane {name}, its path says {channel}. Correct one of them, or "
                "store the plane without a name."
            )


def _is_after(name: str, channel: str, marker: str) -> bool:
    """As `_is_called`, for names that stand alone: a longer one may hold the marker's for other reasons."""
    whole = {channel.casefold(), *([marker.casefold()] if channel == "marker" and marker != "unknown" else [])}
    return name.casefold() in whole or (channel == "DAPI" and _NUCLEI.match(name) is not None)


def names_of_stack(pages: Any, first: Sequence[int]) -> tuple[str, ...]:
    """Names of the channels of a stack, whose first planes are the pages `first`; empty where it names none."""
    description = str(getattr(pages[0], "description", "") or "")
    if has_ome(description):
        return told_names(_of_ome(description, has_depth=True))
    told = pages.parent.imagej_metadata if pages.parent.is_imagej else None
    labels = [str(label) for label in (told or {}).get("Labels") or []]
    return told_names([(labels[at].splitlines() or [""])[0] for at in first]) if len(labels) == len(pages) else ()


def order_of_channels(names: Sequence[str], channels: Sequence[str], *, marker: str) -> list[int]:
    """The plane of each of `channels`, by the names that a file gives its planes; in their order where it gives none.

    A channel is the plane of its name; DAPI is also the plane that is called after another stain of nuclei, and the
    channel `marker` the plane of the tile's own `marker`, or the one that is left.

    Raises TileReadError where names and path speak of different stains, or a name fits two planes.
    """
    usual = list(range(len(channels)))
    if not names:
        return usual
    chosen: dict[str, int] = {}
    for channel in channels:
        fits = [at for at, name in enumerate(names) if _is_called(name, channel, marker)]
        if len(fits) > 1:
            raise TileReadError(f"channel names: {len(fits)} planes are called {channel}: {', '.join(names)}")
        if fits:
            chosen[channel] = fits[0]
    open_channels = [channel for channel in channels if channel not in chosen]
    left = [at for at in range(len(names)) if at not in chosen.values()]
    if not chosen:
        _check_no_other(names, channels, marker)
        return usual
    for channel, at in zip(open_channels, left, strict=False):
        _check_no_other([names[at]], [channel], marker)
        chosen[channel] = at
    if len(chosen) < len(channels) or len(set(chosen.values())) < len(channels):
        raise TileReadError(f"channel names: the file names {', '.join(names)}, expected {', '.join(channels)}")
    return [chosen[channel] for channel in channels]


def _is_called(name: str, channel: str, marker: str) -> bool:
    if name.casefold() == channel.casefold():
        return True
    if channel == "DAPI":
        return _NUCLEI.search(name) is not None
    return channel == "marker" and marker.casefold() in name.casefold()


def _check_no_other(names: Sequence[str], channels: Sequence[str], marker: str) -> None:
    """A plane that is called after another stain than the path names is not that marker."""
    for name in names:
        if "marker" in channels and marker not in ("", "unknown") and not (_DYE.search(name) or _NUCLEI.search(name)):
            raise TileReadError(
                f"channel names: the file names its planes {', '.join(names)}, the path names the marker {marker}. "
                "Correct one of them, or name planes by their positions and store them without names."
            )


def _of_ome(description: str, *, has_depth: bool = False) -> list[str]:
    pixels = pixels_of(description)
    if pixels is None:
        return []
    _check_order(pixels)
    if not has_depth:
        _check_axes(int(pixels.get("SizeZ", 1)), int(pixels.get("SizeT", 1)))
    return [node.get("Name", "") for node in pixels if tag_of(node) == "Channel"]


def _check_order(pixels: Any) -> None:
    """Refuses pages that OME-XML (TiffData) puts in another order than that of its channels, planes and times.

    Elements without a page, and those of several files, whose pages count anew in each, say nothing of it.
    """
    told = [node.attrib for node in pixels if tag_of(node) == "TiffData" and "IFD" in node.attrib]
    sizes = [int(pixels.get(f"Size{axis}", 1)) for axis in "ZCT"]
    order = [axis for axis in pixels.get("DimensionOrder", "XYZCT") if axis in "ZCT"]
    found = []
    for one in told:
        place, step = 0, 1
        for axis in order:
            place += step * int(one.get(f"First{axis}", 0))
            step *= sizes["ZCT".index(axis)]
        found.append((int(one["IFD"]), place))
    found.sort()
    pages, places = [page for page, _ in found], [place for _, place in found]
    if len(set(pages)) == len(pages) and places != sorted(places):
        raise TileReadError(
            "planes in another order: OME-XML (TiffData) says that the file's pages do not follow each other as its "
            "channels do. Save them in order: `bfconvert FILE FILE.ome.tif`"
        )


def _check_axes(depth: int, times: int) -> None:
    if depth > 1 or times > 1:
        raise TileReadError(
            f"wrong number of planes: the file says that they are depth (Z = {depth}) and time (T = {times}), "
            "and no channels" + (". --z max, mean, focus or N makes one plane of a stack" if depth > 1 else "")
        )


def told_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names without blanks, where each says something; what programs write where nobody named anything says nothing."""
    stripped = [name.strip() for name in names]
    return () if not stripped or any(_NO_NAME.fullmatch(name) for name in stripped) else tuple(stripped)
