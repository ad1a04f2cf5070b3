"""How folders of annotation masks name the tiles that they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final

from fintune_xr.errors import FintuneValueError, TileReadError, unknown_name
from fintune_xr.names import MASK
from fintune_xr.store.raw.layouts import TIFF_SUFFIXES, Layout
from fintune_xr.store.raw.pairing import natural_key
from fintune_xr.store.raw.readers.drawings import DRAWN_SUFFIXES, JSON_SUFFIXES, json_kind
from fintune_xr.store.raw.sources import Place, list_files, place_in

DEFAULT_MASK_LAYOUT: Final = "rosmap"
COCO: Final = "coco"
MASK_SUFFIXES: Final = (*TIFF_SUFFIXES, ".png")

# Files of tools that people draw in; a COCO file names its images itself.
_SEG: Final = r"_seg\.npy"
_ROIS: Final = r"(?:[_-]?(?i:rois?|roiset))?\.(?i:zip|roi)"
_JSON: Final = r"\.(?i:geojson|json)"
_COCO: Final = r"(?P<donor>)(?P<tile>.+)" + _JSON

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
    _drawn("geojson", "objects that QuPath exports, NAME.geojson", _JSON),
    _drawn("labelme", "NAME.json of LabelMe", _JSON),
    replace(
        _masks(COCO, "files of COCO, whose images are named as tiles", _COCO),
        suffixes=JSON_SUFFIXES, pages_are_tiles=True,
    ),
)})  # fmt: skip

_REGIONS: Final = r"[_-](?i:regions?)\.(?i:tiff?|png)"

REGION_LAYOUT: Final = _masks(
    "regions", "named as the tile with _regions behind it, in the tile's folders or flat; TIFF or PNG",
    *(tile + r"_b0c[0-9]+(?P<part>[^/]*?)" + _REGIONS for tile in _ROSMAP_TILES),
    *(tile + _REGIONS for tile in _ROSMAP_TILES),
)  # fmt: skip
"""Label images of regions of tissue, whose codes a legend names."""

# Layouts that are looked for by name where no label image lies in a folder and none was asked for; then JSON is opened.
LOOKED_FOR: Final = ("seg", "rois")


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


def layout_of_folder(source: Place) -> Layout:
    """The default layout where a file of it lies under `source`, else that of another tool whose files lie there.

    Files of JSON are told apart by what they hold; the first in natural order that is of a known program decides.

    Raises FintuneValueError where `source` is no folder, or holds JSON of no known program and no image beside it.
    """
    files = list_files(source)
    tried = [MASK_LAYOUTS[name] for name in (DEFAULT_MASK_LAYOUT, *LOOKED_FOR)]
    fitting = (one for one in tried if any(_fits(one, path) for path in files))
    return next(fitting, None) or _layout_of_json(source, files) or tried[0]


def _layout_of_json(source: Place, files: Iterable[str]) -> Layout | None:
    of_json = sorted((path for path in files if _fits(MASK_LAYOUTS["geojson"], path)), key=natural_key)
    reasons = []
    for path in of_json:
        try:
            return MASK_LAYOUTS[json_kind(place_in(source, path))]
        except TileReadError as error:
            reasons.append(f"{path}: {error.reason}")
    if reasons and not any(PurePosixPath(path).suffix.lower() in MASK_SUFFIXES for path in files):
        raise FintuneValueError(
            f"none of the {len(reasons)} JSON file(s) in {source} holds objects that can be read, such as {reasons[0]}"
        )
    return None


def _fits(layout: Layout, path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in layout.suffixes and layout.parse(path) is not None


def with_told_pattern(base: Layout, pattern: str) -> Layout:
    """`base` with the caller's pattern; what that does not capture, no path names."""
    return replace(base, patterns=(pattern,), donor="", marker="", told=True)
