"""Large images cut into tiles of nearly equal size: every pixel in one part, none resampled or lost.

A side of L pixels becomes n = max(1, round(L / N)) parts, the i-th from floor(i L / n) to floor((i + 1) L / n). So no
part of a side of 0.75 N or more is shorter than 0.75 N or longer than 1.5 N, but for rounding to whole pixels, and two
of them never differ by more than the factor of two that tiles of one store may.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from typing import Final

from fintune_xr.errors import FintuneValueError
from fintune_xr.store.raw.pairing import FoundPlane

SMALLEST_CUT: Final = 64
_PLACE: Final = re.compile(r"(.*)@y\d+x\d+")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an image: where it begins and its size in px, and its place among the others, e.g. `y0x1`."""

    y: int
    x: int
    height: int
    width: int
    place: str

    @property
    def rows(self) -> slice:
        """Rows of the whole image."""
        return slice(self.y, self.y + self.height)

    @property
    def columns(self) -> slice:
        """Columns of the whole image."""
        return slice(self.x, self.x + self.width)


def check_cut(cut: int) -> int:
    """`cut` itself, once it is 0 (images stay whole) or large enough; raises FintuneValueError otherwise."""
    if cut and cut < SMALLEST_CUT:
        raise FintuneValueError(f"cut: expected {SMALLEST_CUT} px or more, or 0 to leave images whole, got {cut}")
    return cut


def ends(length: int, cut: int) -> list[tuple[int, int]]:
    """First pixel and the one after the last of each part of a side of `length` px."""
    count = max(1, round(length / cut)) if cut else 1
    at = [i * length // count for i in range(count + 1)]
    return list(itertools.pairwise(at))


def parts_of(height: int, width: int, cut: int) -> list[Part]:
    """Parts of an image of `height` x `width` px, row by row."""
    return [
        Part(y0, x0, y1 - y0, x1 - x0, f"y{row}x{column}")
        for row, (y0, y1) in enumerate(ends(height, cut))
        for column, (x0, x1) in enumerate(ends(width, cut))
    ]


def named_part(name: str, part: Part) -> str:
    """Name of the tile that holds a part of the image `name`: `@y<row>x<column>` behind it."""
    return f"{name}@{part.place}"


def whole_name(name: str) -> str:
    """Name of the image that a tile was cut from; `name` itself where it is no part."""
    found = _PLACE.fullmatch(name)
    return found[1] if found else name


def cut_planes(plane: FoundPlane, cut: int) -> list[FoundPlane]:
    """One plane for each part of the image that `plane` describes; `plane` itself where it stays whole."""
    if not cut or plane.header is None:
        return [plane]
    return [
        replace(
            plane,
            name=replace(plane.name, tile=named_part(plane.name.tile, part)),
            header=replace(plane.header, height=part.height, width=part.width),
            origin=(part.y, part.x),
        )
        for part in parts_of(plane.header.height, plane.header.width, cut)
    ]
