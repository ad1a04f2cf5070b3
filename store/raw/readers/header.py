"""What a file says about its pixels before they are decoded, and which pixels are accepted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError

IMAGE_DTYPES: Final = ("uint8", "uint16")
MICROGRAPH_DTYPES: Final = ("int8", "uint8", "int16", "uint16", "float16", "float32")
LABEL_DTYPES: Final = ("bool", "uint8", "uint16", "uint32", "int8", "int16", "int32", "int64", "uint64")

# A damaged header may claim any size; a plane beyond this is refused before memory is asked for.
MOST_PIXELS: Final = 2**31
# No picture is as narrow as this; an axis of this length at most counts channels.
_MOST_CHANNELS: Final = 8


@dataclass(frozen=True, slots=True)
class Header:
    """One plane as its file describes it; `pages` is how many planes the file holds, `depth` how many make the tile.

    `pixel_size_a` is the side of a pixel in the specimen in angstrom, 0 where the file does not tell it; `is_colour`
    whether the planes are red, green and blue of one image, `is_palette` whether its values number colours of a list.
    `own_name` is what a file of one plane calls it. `stack` is how many planes along z become the plane. `names` are
    those that the file gives its planes, where these are channels and it names all of them. `doubt` is why a size of
    pixels that the file tells was not taken.
    """

    height: int
    width: int
    dtype: str
    pages: int = 1
    pixel_size_a: float = 0.0
    is_colour: bool = False
    is_palette: bool = False
    depth: int = 1
    names: tuple[str, ...] = ()
    doubt: str = ""
    stack: int = 1
    own_name: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the tile: height and width, and the depth before them where it is a volume."""
        return shape_of(self.depth, self.height, self.width)


def shape_of(depth: int, height: int, width: int) -> tuple[int, ...]:
    """(height, width) of a plane, (depth, height, width) of a volume, which has two planes or more."""
    return (height, width) if depth == 1 else (depth, height, width)


def shape_text(shape: Sequence[int]) -> str:
    """A shape as messages give it: 512 x 640."""
    return " x ".join(map(str, shape))


def axes_hint(header: Header) -> str:
    """That channels seem to lie last, or in the middle, where pages are too narrow for pictures; empty where not.

    Some programs count every row of such a file as a page, and nothing in it says otherwise.
    """
    shortest = min(header.height, header.width)
    if shortest > _MOST_CHANNELS or shortest >= min(header.pages, max(header.height, header.width)):
        return ""
    place, axis = ("last", -1) if shortest == header.width else ("middle", 1)
    return (
        f" of {header.height} x {header.width} px: axes ({header.pages}, {header.height}, {header.width}) were read as "
        f"(plane, y, x). Is the {place} one, of length {shortest}, that of the channels? Save them first: "
        f"tifffile.imwrite(path, numpy.moveaxis(pixels, {axis}, 0), photometric='minisblack')"
    )


def check_header(header: Header, dtypes: Collection[str]) -> Header:
    """`header` itself, once its size is plausible and its dtype one of `dtypes`.

    Raises TileReadError with a plain reason.
    """
    if header.dtype not in dtypes:
        raise TileReadError(f"wrong dtype: expected {' or '.join(dtypes)}, found {header.dtype}")
    if header.height < 1 or header.width < 1 or header.height * header.width > MOST_PIXELS:
        raise TileReadError(
            f"wrong shape: expected 1 to {MOST_PIXELS:,} pixels, found {header.height} x {header.width}"
        )
    return header


def checked_pixels(pixels: NDArray[Any]) -> NDArray[Any]:
    """`pixels` themselves, once each of them is a number.

    Raises TileReadError where some are NaN or infinite.
    """
    if pixels.dtype.kind == "f":
        missing = int(np.count_nonzero(~np.isfinite(pixels)))
        if missing:
            raise TileReadError(f"wrong values: {missing:,} of {pixels.size:,} pixels are NaN or infinite")
    return pixels


def page_index(page: int | None, pages: int) -> int:
    """The page that is meant: `page`, or the only one where it is None.

    Raises TileReadError where there is no such page, or several and none was named.
    """
    if page is None and pages != 1:
        raise TileReadError(f"wrong shape: expected one plane, found {pages} pages")
    if page is not None and not 0 <= page < pages:
        raise TileReadError(f"wrong shape: expected a page {page}, found {pages} page(s)")
    return page or 0
