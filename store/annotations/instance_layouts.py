"""How folders of annotation masks name the tiles that they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final

from fintune_xr.errors import unknown_name
from fintune_xr.names import MASK
from fintune_xr.store.raw.layouts import TIFF_SUFFIXES, Layout
from fintune_xr.store.raw.readers.drawn import DRAWN_SUFFIXES

DEFAULT_MASK_LAYOUT: Final = "rosmap"
COCO: Final = "coco"
MASK_SUFFIXES: Final = (*TIFF_SUFFIXES, ".png")

# Files of tools that people draw in; a COCO file names its images itself.
_SEG: Final = r"_seg\.npy"
_ROIS: Final = r"(?:[_-]?(?i:rois?|roiset))?\.(?i:zip|roi)"
_GEOJSON: Final = r"\.(?i:geojson|json)"
_LABELME: Final = r"\.(?i:json)"
_COCO: Final = r"(?P<donor>)(?P<tile>.+)\.(?i:json)"

_CHANNELS: Final = {"": MASK}
_NOTHING: Final = r"(?!)"
_FILE: Final = r"(?:[_-](?:cp_)?(?i:masks?)|_pred)\.(?i:tiff?|png)"
# The same for tiles whose own names end in _cp: these are read as well, and the longer name is tried first.
_FILE_OF_CP: Final = r"_(?i:masks?)\.(?i:tiff?|png)"
_OF_CHANNEL: Final = r"_b0c[0-9]+(?P<part>[^/]*?)" + _FILE

_ROSMAP_TILES: Final = (
    r"(?P<donor>[^/]+)/(?P<marker>[^/]+)/(?P<tile>.+?)",
    r"(?P<donor>[^/]+)/(?P<tile>(?:(?P=donor)[_-])?(?P<marker>[A-Za-z][A-Za-z0-9]*)[^/]*?)",
    r"(?P<tile>(?P<donor>[^/_-]+)[_-](?P<marker>[A-Za-z][A-Za-z0-9]*)[^/]*?)",
    r"(?P<donor>)(?P<tile>.+?)",
)


def _masks(
    name: str, about: str, *patterns: str, marker: str = "", pages_are_tiles: bool = False, joined: bool = False
) -> Layout:
    return Layout(
        name, patterns, _CHANNELS, about=about, marker=marker, suffixes=MASK_SUFFIXES,
        pages_are_tiles=pages_are_tiles, joined=joined, ignore=_NOTHING,
    )  # fmt: skip


def _drawn(name: str, about: str, end: str) -> Layout:
    return replace(
        _masks(name, f"{about}, named as the tile, in the tile's folders or flat", *(t + end for t in _ROSMAP_TILES)),
        suffixes=DRAWN_SUFFIXES,
    )


MASK_LAYOUTS: Final[Mapping[str, Layout]] = MappingProxyType({layout.name: layout for layout in (
    _masks(
        "rosmap",
        "named as the tile with _masks behind it, in the tile's folders or flat; TIFF or PNG",
        *(tile + _OF_CHANNEL for tile in _ROSMAP_TILES),
        *(tile + _FILE for tile in _ROSMAP_TILES),
        *(tile + _FILE_OF_CP for tile in _ROSMAP_TILES),
    ),
    _masks(
        "cellpose", "NAME_masks.tif (or .png) beside NAME.tif, in train_cells, val_cells and test_cells or one folder",
        *(r"(?:.*/)?(?P<donor>)(?P<tile>[^/]+?)" + file for file in (_FILE, _FILE_OF_CP)),
    ),
    _masks(
        "deepflash", "Parv/NN_expert.tif, binary", r"Parv/(?P<tile>(?P<donor>0[0-2]))_expert\.tif", marker="Parv",
    ),
    _masks(
        "deepflash-cfos", "cFOS/NN_expert.tif, binary, for the same tiles",
        r"cFOS/(?P<tile>(?P<donor>0[0-2]))_expert\.tif", marker="Parv",
    ),
    _masks(
        "microglia", "MAX_RECORDING--FRAMES-labelMasks.tif, each page a tile",
        r"(?P<tile>MAX_(?P<donor>pg\d+)[^/]*?--t[\d-]+)-labelMasks\.tif", marker="microglia", pages_are_tiles=True,
    ),
    _masks(
        "dsb2018", "labels/STEM.tif, or STEM/masks/ with a file for each nucleus, as published",
        r"labels/(?P<tile>(?P<donor>[^/]+))\.tif",
        r"(?:.*/)?(?P<tile>(?P<donor>[^/]+))/masks/[^/]+\.(?i:png|tiff?)",
        marker="nuclei", joined=True,
    ),
    _drawn("seg", "NAME_seg.npy, as Cellpose's window saves", _SEG),
    _drawn("rois", "regions of ImageJ, NAME.zip, NAME_rois.zip or NAME.roi", _ROIS),
    _drawn("geojson", "objects that QuPath exports, NAME.geojson", _GEOJSON),
    _drawn("labelme", "NAME.json of LabelMe", _LABELME),
    replace(
        _masks(COCO, "files of COCO, whose images are named as tiles", _COCO),
        suffixes=(".json",), pages_are_tiles=True,
    ),
)})  # fmt: skip

# Layouts that are looked for where no label image lies in a folder and none was asked for.
LOOKED_FOR: Final = ("seg", "rois", "geojson")


def choose_mask_layout(name: str = DEFAULT_MASK_LAYOUT, *, pattern: str | None = None, join: bool = False) -> Layout:
    """The layout of masks of that name, with the caller's pattern (groups donor, marker, tile) in its place.

    With `join`, each file is one cell, and the files of one tile are its mask together.

    Raises UnknownNameError for an unknown layout, SettingsError for a pattern that cannot work.
    """
    if name not in MASK_LAYOUTS:
        raise unknown_name("layout of masks", name, MASK_LAYOUTS)
    base = MASK_LAYOUTS[name]
    chosen = base if pattern is None else with_told_pattern(base, pattern)
    return replace(chosen, joined=True) if join else chosen


def layout_of_files(paths: Iterable[str]) -> Layout:
    """The default layout where a file of it is among `paths`, else the one of another tool that some of them fit."""
    files = list(paths)
    tried = [MASK_LAYOUTS[name] for name in (DEFAULT_MASK_LAYOUT, *LOOKED_FOR)]
    fitting = (one for one in tried if any(_fits(one, path) for path in files))
    return next(fitting, tried[0])


def _fits(layout: Layout, path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in layout.suffixes and layout.parse(path) is not None


def with_told_pattern(base: Layout, pattern: str) -> Layout:
    """`base` with the caller's pattern; what that does not capture, no path names."""
    return replace(base, patterns=(pattern,), donor="", marker="", told=True)
