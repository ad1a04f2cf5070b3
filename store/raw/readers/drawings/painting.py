"""Objects that were drawn, painted into one image of labels."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError
from fintune_xr.pixels.instance_labels import MAX_LABEL
from fintune_xr.pixels.outlines import Ring, fill_rings
from fintune_xr.store.raw.length_units import Unit, agreed_um, px_per_unit
from fintune_xr.text import one_spelling

Overlap: TypeAlias = Literal["first", "last"]
"""Whose a pixel is that two objects hold: of the one that was drawn first, or of the one that lies on top."""

OVERLAPS: Final = ("first", "last")

# What people call outlines that are no cells.
_NO_OBJECTS: Final = ("background", "ignore", "unlabeled", "unlabelled")
# How QuPath calls cells of one class that are stained or not.
_INTENSITIES: Final = ("positive", "negative", "1+", "2+", "3+")
UNCLASSIFIED: Final = "unclassified"
"""How objects without a class are called where classes are named."""

# Where all objects lie within this share of a tile's sides, um that were taken for px may be why.
_SMALLER: Final = 0.75
# How far they reach then, as a share of where um would end, and how rarely so many would by chance lie there.
_REACH: Final = (0.6, 1.02)
_CHANCE: Final = 1e-4


@dataclass(frozen=True, slots=True)
class DrawnReading:
    """How drawn objects are read: whose pixels of two are, which `classes` are objects, and what the numbers are.

    Without `classes` all are. Coordinates are in the `unit` that is said here or in the file, else px, `scale` px of
    the tile for each; `side_um` is the side of those, 0 where it is not known.
    """

    overlap: Overlap | None = None
    classes: tuple[str, ...] | None = None
    unit: Unit | None = None
    scale: float = 1.0
    side_um: float = 0.0

    def takes(self, of_class: str) -> bool:
        """Whether objects of a class are taken: all that were asked for, else all but those that say they are none.

        QuPath makes no objects of classes whose names end in an asterisk (`PathClassTools.isIgnoredClass`).
        """
        if self.classes is not None:
            return class_key(of_class) in map(class_key, self.classes)
        return not of_class.endswith("*")

    def px_per_unit(self, stated: str) -> float:
        """How many px of the tile a coordinate of 1 is, in a file that states the unit `stated`."""
        return self.scale * px_per_unit(agreed_um(self.unit, stated), self.side_um)

    @property
    def is_told(self) -> bool:
        """Whether it was said what the numbers are."""
        return self.unit is not None or self.scale != 1


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """One object: its name in the file, and its pixels (y, x) or the rings around them; or `parts`, all of which it is.

    `of_class` is the class that the file gives it, empty where it gives none.
    """

    name: str
    rings: tuple[Ring, ...] = ()
    mask: NDArray[np.bool_] | None = None
    parts: tuple[Drawn, ...] = ()
    of_class: str = ""

    def pixels(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Its pixels in an image of `shape`. Raises TileReadError where it was drawn in one of another size."""
        if self.parts:
            # A pixel of two parts of an object is of the object.
            return np.asarray(np.logical_or.reduce([one.pixels(shape) for one in self.parts]))
        if self.mask is None:
            return fill_rings(self.rings, shape)
        if self.mask.shape != shape:
            raise TileReadError(f"wrong shape: expected {shape[0]} x {shape[1]} as the tile, found {self.mask.shape}")
        return self.mask

    def scaled(self, factor: float) -> Drawn:
        """The same object in px of which a coordinate of 1 is `factor`. Raises TileReadError for pictures of one."""
        if factor == 1:
            return self
        if self.mask is not None:
            raise TileReadError(
                "unit: an object is a picture of its pixels, and those are px of the tile. Leave --unit and --scale out"
            )
        parts = tuple(one.scaled(factor) for one in self.parts)
        return replace(self, rings=tuple(factor * ring for ring in self.rings), parts=parts)

    @property
    def reach(self) -> tuple[float, float]:
        """How far it reaches down and to the right, in px; 0 where it is a picture of itself."""
        corners = [ring.max(axis=0)[::-1] for ring in self.rings] + [np.array(one.reach) for one in self.parts]
        y, x = np.max(corners, axis=0) if corners else (0.0, 0.0)
        return float(y), float(x)


def class_key(of_class: str) -> str:
    """What two spellings of one class share."""
    return one_spelling(of_class).strip().casefold() or UNCLASSIFIED


def base_class(names: Sequence[str]) -> str:
    """The class out of QuPath's names of it and of those derived from it, whether it is stained or not left away."""
    kept = [name.strip() for one in names for name in one.split(":")]
    return ": ".join(name for name in kept if name.casefold() not in _INTENSITIES)


def check_class(name: str) -> None:
    """Raises TileReadError for an object of a class that says that it is none."""
    if name.strip("_ ").casefold() in _NO_OBJECTS:
        raise TileReadError(
            f"no cells: an outline of the class {name!r} would be stored as a cell. Leave such outlines out, or name "
            "the classes that are cells: --classes"
        )


def check_size(said: Sequence[Any], shape: tuple[int, int], scale: float) -> None:
    """Raises TileReadError where height or width of the image that was drawn in are not those of a tile of `shape`."""
    for length, own in zip(said, shape, strict=True):
        if length is not None and abs(float(length) * scale - own) >= max(scale, 1):
            raise TileReadError(
                f"wrong shape: expected {shape[0]} x {shape[1]} as the tile, found {said[0]} x {said[1]}. Where it was "
                "drawn in a smaller or larger copy of the tile: --scale"
            )


def check_one_plane(planes: Iterable[Hashable], remedy: str) -> None:
    """Raises TileReadError where objects lie in several `planes` of a stack: all would come to lie on one tile."""
    n_planes = len(set(planes))
    if n_planes > 1:
        raise TileReadError(f"several planes: the objects lie in {n_planes} planes of a stack, a tile is one. {remedy}")


def paint(objects: Iterable[Drawn], shape: tuple[int, int], how: DrawnReading, stated: str = "") -> NDArray[np.uint32]:
    """Labels (y, x) of the objects that are taken, whose file states the unit `stated`.

    Raises TileReadError for an object without a pixel in the image, without `how.overlap` for pixels of two objects,
    and for objects that lie where they would if um had been taken for px.
    """
    factor = how.px_per_unit(stated)
    found = [one.scaled(factor) for one in objects if how.takes(one.of_class)]
    if not (how.is_told or stated):
        _check_corner(found, shape, how.side_um)
    _check_fractions(found)
    labels: NDArray[np.uint32] = np.zeros(shape, np.uint32)
    n_twice = 0
    for one, number in zip(found, numbers([one.name for one in found]), strict=True):
        if how.classes is None:
            check_class(one.of_class)
        inside = one.pixels(shape)
        if not inside.any():
            raise TileReadError(
                f"empty: {one.name or 'an object'} encloses the middle of no pixel of {shape[0]} x {shape[1]}. "
                "Was it drawn in another image, or in one of another size?"
            )
        n_twice += int(np.count_nonzero(labels[inside]))
        labels[inside & (labels == 0) if how.overlap == "first" else inside] = number
    if n_twice and how.overlap is None:
        raise TileReadError(
            f"overlap: {n_twice} px belong to two objects. Say whose they are: --overlap first, or last (that on top)"
        )
    n_hidden = len(found) - np.count_nonzero(np.unique(labels))
    if n_hidden:
        raise TileReadError(
            f"hidden: nothing is left of {n_hidden} of {len(found)} objects, which lie wholly in others. Were some "
            "drawn twice, or nuclei within their cells? Leave in those that are meant"
        )
    return labels


def _check_fractions(objects: Sequence[Drawn]) -> None:
    if objects and all(one.mask is None and max(one.reach) <= 1 for one in objects):
        raise TileReadError(
            "fractions: all coordinates lie between 0 and 1. Multiply them by the width and height of the tile."
        )


def _check_corner(objects: Sequence[Drawn], shape: tuple[int, int], side_um: float) -> None:
    """Refuses objects that end where those of the whole tile do in um, and that hardly lie there by chance."""
    if not objects or not 0 < side_um < _SMALLER or any(one.mask is not None for one in objects):
        return
    y, x = np.max([one.reach for one in objects], axis=0) / shape
    in_um = [share / side_um for share in (y, x)]
    if all(_REACH[0] <= share <= _REACH[1] for share in in_um) and (y * x) ** len(objects) < _CHANCE:
        raise TileReadError(
            f"unit: all {len(objects)} objects lie in the first {y:.0%} of the rows and {x:.0%} of the columns, as "
            f"they do in um, of which a pixel is {side_um:.4g}. Say what the coordinates are: --unit um, or --unit px"
        )


def numbers(names: list[str]) -> list[int]:
    """A label for each object: the number that it is called by where all have different ones, else its place."""
    called = [int(name) if name.isascii() and name.isdigit() else 0 for name in names]
    is_told = len(set(called)) == len(called) and all(0 < number <= MAX_LABEL for number in called)
    return called if is_told else list(range(1, len(names) + 1))


def ring(points: Any) -> Ring:
    """Corners (corner, 2) out of what a file lists. Raises TileReadError for fewer than three, or what is no number."""
    corners = np.asarray(points, np.float64)
    if corners.ndim != 2 or corners.shape[1] < 2 or len(corners) < 3 or not np.isfinite(corners).all():
        raise TileReadError("unreadable: expected a polygon of three corners (x, y) or more")
    return corners[:, :2]


def rectangle(left: float, top: float, right: float, bottom: float) -> Ring:
    """The four corners of an upright rectangle."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)


def ellipse(centre: tuple[float, float], radii: tuple[float, float], n_corners: int = 720) -> Ring:
    """Corners (x, y) on an upright ellipse, so many that no pixel tells it from them."""
    angles = np.linspace(0, 2 * np.pi, n_corners, endpoint=False)
    return np.stack([centre[0] + radii[0] * np.cos(angles), centre[1] + radii[1] * np.sin(angles)], axis=1)
