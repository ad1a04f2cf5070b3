"""Objects that were drawn, painted into one image of labels."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError
from fintune_xr.pixels.instance_labels import MAX_LABEL
from fintune_xr.pixels.outlines import Ring, fill_rings

Overlap: TypeAlias = Literal["first", "last"]
"""Whose a pixel is that two objects hold: of the one that was drawn first, or of the one that lies on top."""

OVERLAPS: Final = ("first", "last")

# What people call outlines that are no cells; QuPath leaves out whatever class ends in an asterisk.
_NO_OBJECTS: Final = ("background", "ignore", "unlabeled", "unlabelled")


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """One object: its name in the file, and its pixels (y, x) or the rings around them."""

    name: str
    rings: tuple[Ring, ...] = ()
    mask: NDArray[np.bool_] | None = None

    def pixels(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Its pixels in an image of `shape`. Raises TileReadError where it was drawn in one of another size."""
        if self.mask is None:
            return fill_rings(self.rings, shape)
        if self.mask.shape != shape:
            raise TileReadError(f"wrong shape: expected {shape[0]} x {shape[1]} as the tile, found {self.mask.shape}")
        return self.mask


def check_class(name: str) -> None:
    """Raises TileReadError for an object of a class that says that it is none."""
    if name.endswith("*") or name.strip("_ ").casefold() in _NO_OBJECTS:
        raise TileReadError(
            f"no cells: an outline of the class {name!r} would be stored as a cell. Leave such outlines out."
        )


def check_one_plane(planes: Iterable[Hashable], remedy: str) -> None:
    """Raises TileReadError where objects lie in several `planes` of a stack: all would come to lie on one tile."""
    n_planes = len(set(planes))
    if n_planes > 1:
        raise TileReadError(f"several planes: the objects lie in {n_planes} planes of a stack, a tile is one. {remedy}")


def paint(objects: Iterable[Drawn], shape: tuple[int, int], overlap: Overlap | None) -> NDArray[np.uint32]:
    """Labels (y, x) of the objects.

    Raises TileReadError for an object without a pixel in the image, and without `overlap` for pixels of two objects.
    """
    found = list(objects)
    labels: NDArray[np.uint32] = np.zeros(shape, np.uint32)
    n_twice = 0
    for one, number in zip(found, numbers([one.name for one in found]), strict=True):
        inside = one.pixels(shape)
        if not inside.any():
            raise TileReadError(
                f"empty: {one.name or 'an object'} encloses the middle of no pixel of {shape[0]} x {shape[1]}. "
                "Was it drawn in another image, or in one of another size?"
            )
        n_twice += int(np.count_nonzero(labels[inside]))
        labels[inside & (labels == 0) if overlap == "first" else inside] = number
    if n_twice and overlap is None:
        raise TileReadError(
            f"overlap: {n_twice} px belong to two objects. Say whose they are: --overlap first, or last (that on top)"
        )
    return labels


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
