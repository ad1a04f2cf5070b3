"""How folders of particle coordinates name the micrographs that they belong to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final

from fintune_xr.errors import unknown_name
from fintune_xr.store.annotations.instance_layouts import with_told_pattern
from fintune_xr.store.annotations.tile_index import Fits, TileIndex
from fintune_xr.store.raw.coordinates import COORDINATE_SUFFIXES
from fintune_xr.store.raw.layouts import PARTICLES, Layout, PlaneName

_ANY: Final = r"\.[^./]+"
# What programs put behind the name of a micrograph when they store its particles.
_ADDED: Final = re.compile(r"[_-](?:autopick|manualpick|picks?|coords?|particles)$")


def _points(name: str, about: str, *patterns: str) -> Layout:
    return Layout(
        name, patterns, {"": PARTICLES}, about=about, marker=PARTICLES, suffixes=COORDINATE_SUFFIXES, ignore=r"(?!)",
    )  # fmt: skip


POINT_LAYOUTS: Final[Mapping[str, Layout]] = MappingProxyType({layout.name: layout for layout in (
    _points(
        "coordinates", "NAME.csv, .tsv, .txt, .star, .box, .json or .cs, named as the micrograph, in any folder",
        r"(?:.*/)?(?P<donor>)(?P<tile>[^/]+)" + _ANY,
    ),
    _points(
        "cryoppp", "SET/ground_truth/particle_coordinates/NAME.csv",
        r"(?:.*/)?(?P<donor>[^/]+)/ground_truth/particle_coordinates/(?P<tile>[^/]+)\.csv",
        r"(?P<donor>)(?:ground_truth/)?particle_coordinates/(?P<tile>[^/]+)\.csv",
    ),
)})  # fmt: skip


def choose_point_layout(name: str = "coordinates", *, pattern: str | None = None) -> Layout:
    """The layout of coordinates of that name, with the caller's pattern (groups donor and tile) in its place.

    Raises UnknownNameError for an unknown layout, SettingsError for a pattern that cannot work.
    """
    if name not in POINT_LAYOUTS:
        raise unknown_name("layout of coordinates", name, POINT_LAYOUTS)
    base = POINT_LAYOUTS[name]
    return base if pattern is None else with_told_pattern(base, pattern)


def micrograph_candidates(index: TileIndex, path: str, name: PlaneName, micrograph: str, *, is_told: bool) -> Fits:
    """Stored tiles that particles may belong to: by the `micrograph` that their file names, else by the file's name.

    `name` is what the layout made of the file's `path`. An exact name comes before one without its suffix; a folder
    that names another set is never overruled. Several where names do not decide, none where none fits.
    """
    if not micrograph and is_told:
        return index.of_mask(path, _shortened(name), is_told=True)
    called = PurePosixPath(micrograph)
    if not micrograph:
        exact: tuple[str, ...] = (name.tile,)
    else:
        exact = (called.name, called.stem)
    names = dict.fromkeys([*exact, *(_ADDED.sub("", one) for one in exact)])
    return index.of_micrograph(micrograph if called.parent.name else path, list(names))


def _shortened(name: PlaneName) -> list[PlaneName]:
    return [name, replace(name, tile=_ADDED.sub("", name.tile))]
