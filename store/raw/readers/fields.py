"""What a file of a microscope holds: fields, each of them channels of planes along z, and what is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from numpy.typing import NDArray

from fintune_xr.errors import TileReadError

# Programs that know all of these formats, also where the reader here does not take what they hold.
BY_HAND: Final = "Save it as OME-TIFF: `bfconvert FILE FILE.ome.tif`, or in Fiji"


@dataclass(frozen=True, slots=True)
class Field:
    """One field as its file describes it, of `channels` channels with `depth` planes along z each; sizes in px.

    `name` is its own, empty where it has none. `names` are those of all channels, empty where the file does not name
    each. `side_um` are width and height of a pixel in um, 0 where they are not told. `fault` is why the field is no
    tile, empty where it may be one.
    """

    height: int
    width: int
    dtype: str
    channels: int = 1
    depth: int = 1
    names: tuple[str, ...] = ()
    side_um: tuple[float, float] = (0.0, 0.0)
    fault: str = ""
    name: str = ""


class FieldFile(Protocol):
    """An opened file of a microscope."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """Fields in their order in the file; no pixel is decoded."""

    def pixels(self, field: int) -> NDArray[Any]:
        """Pixels (channel, z, y, x) of a field that has no fault."""


def first_pages(fields: Sequence[Field]) -> list[int]:
    """The page of the first channel of each field: channels of all fields are counted from 0 on, field by field."""
    starts = [0]
    for field in fields:
        starts.append(starts[-1] + field.channels)
    return starts[:-1]


def field_of_page(fields: Sequence[Field], page: int) -> tuple[int, int]:
    """The field that a page belongs to, and the position of its channel there.

    Raises TileReadError where there is no such page.
    """
    for at, (field, start) in enumerate(zip(fields, first_pages(fields), strict=True)):
        if 0 <= page - start < field.channels:
            return at, page - start
    raise TileReadError(f"wrong shape: expected a page {page}, found {sum(field.channels for field in fields)} page(s)")


def not_planes(axes: Sequence[str]) -> str:
    """That a field has axes, by their names, of which nothing is made here."""
    return f"wrong shape: expected channels, z, y and x, found also {', '.join(axes)}. {BY_HAND}"


def are_times(times: int) -> str:
    """That the planes of a field are times."""
    return (
        f"wrong number of planes: the file says that they are times (T = {times}), not depth. {BY_HAND}, one time each"
    )


COLOURS: Final = f"wrong shape: expected channels of counts, found red, green and blue of one picture. {BY_HAND}"
