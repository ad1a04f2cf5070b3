"""The eight ways in which a plane of pixels may have been saved: as it is, mirrored, and turned by right angles."""

from __future__ import annotations

from typing import Any, Final

from numpy.typing import NDArray

TURNS: Final = (
    "as they are", "mirrored left for right", "mirrored upside down", "turned by 180°", "mirrored, rows for columns",
    "turned by 90° clockwise", "turned by 90° counterclockwise", "mirrored along the other diagonal",
)  # fmt: skip
"""What has to be done with what lies on a plane for it to lie on each of its orientations."""


def orientations(plane: NDArray[Any]) -> list[NDArray[Any]]:
    """The eight orientations of a plane (y, x), in the order of TURNS; views, of which some have other sides."""
    return [base[::y, ::x] for base in (plane, plane.T) for y in (1, -1) for x in (1, -1)]
