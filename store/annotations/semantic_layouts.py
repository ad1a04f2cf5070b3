"""How folders of class masks name the images that they belong to, and which legend explains their codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from fintune_xr.cohort_kinds import HE
from fintune_xr.errors import unknown_name
from fintune_xr.names import CLASSES, HE_STAIN
from fintune_xr.store.raw.layouts import IMAGE_SUFFIXES, Layout
from fintune_xr.tasks.legends import BCSS, EBHI

# A hidden file, or one of the folders that macOS adds to archives, lies beside the masks and is none.
_VISIBLE: Final = r"(?!(?:.*/)?(?:__MACOSX/|\.))(?:.*/)?"


@dataclass(frozen=True, slots=True)
class ClassLayout:
    """Names of class masks, and the name of the legend of their codes, empty where there is none built in."""

    names: Layout
    legend: str = ""


def _masks(name: str, about: str, *patterns: str, legend: str = "") -> ClassLayout:
    # JPEGs are found, so that they can be refused with a reason.
    layout = Layout(
        name, patterns, {"": CLASSES}, about=about, marker=HE_STAIN, suffixes=IMAGE_SUFFIXES, ignore=r"(?!)",
        beside=_VISIBLE + r"(?:images|rgbs_colorNormalized|masks_rgb)/.*", kind=HE.name,
    )  # fmt: skip
    return ClassLayout(layout, legend)


CLASS_LAYOUTS: Final[Mapping[str, ClassLayout]] = MappingProxyType({one.names.name: one for one in (
    _masks(
        "bcss", "masks/ of the names of the images",
        _VISIBLE + r"masks/(?P<tile>(?P<donor>TCGA-[^-/_]+-[^-/_]+)-[^/_]+_xmin[^/]*)\.[^./]+",
        legend=BCSS.name,
    ),
    _masks(
        "ebhi", "masks_class/ of the names of the images",
        _VISIBLE + r"masks_class/(?P<tile>[^/]*?GT(?:DC)?(?P<donor>\d+)-[^/]+)\.[^./]+",
        legend=EBHI.name,
    ),
    _masks(
        "classes", "masks/ of the names of the images",
        _VISIBLE + r"masks/(?P<donor>[^/]+)/(?P<tile>[^/]+)\.[^./]+",
        _VISIBLE + r"masks/(?P<tile>(?P<donor>[^/_]+)[^/]*)\.[^./]+",
    ),
)})  # fmt: skip


def choose_class_layout(name: str = "classes", *, pattern: str | None = None) -> ClassLayout:
    """The layout of class masks of that name, with the caller's pattern (groups donor, marker, tile) in its place.

    Raises UnknownNameError for an unknown layout, SettingsError for a pattern that cannot work.
    """
    if name not in CLASS_LAYOUTS:
        raise unknown_name("layout of class masks", name, CLASS_LAYOUTS)
    base = CLASS_LAYOUTS[name]
    return base if pattern is None else replace(base, names=replace(base.names, patterns=(pattern,)))
