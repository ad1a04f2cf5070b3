"""One class mask: read, its codes checked, and cut as its image was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import TileReadError
from fintune_xr.store.annotations.class_colours import codes_of_colours
from fintune_xr.store.lineage.same_annotations import truth_profile
from fintune_xr.store.raw.pairing import LeftOut
from fintune_xr.store.raw.readers import read_colours, read_header, read_labels
from fintune_xr.store.raw.readers.header import LABEL_DTYPES
from fintune_xr.store.raw.sources import Place, place_in
from fintune_xr.store.zarr_io import appendable as growing
from fintune_xr.store.zarr_io import shards
from fintune_xr.tasks.legends import MAX_CODE, Legend

# A mask that was resampled or compressed with loss has values between its codes, most of them on a few pixels of edges.
MOST_CODES: Final = 32
RARE_SHARE: Final = 1e-4
RARE_PX: Final = 32

_CHANGED: Final = "changed since it was stored: the stored annotation is the earlier one; annotate with --restart"


@dataclass(frozen=True, slots=True)
class MaskPart:
    """A stored tile as a part of its image: size and origin in px, and the size of the whole image."""

    tile: str
    height: int
    width: int
    y: int
    x: int
    image_height: int
    image_width: int


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask and the tiles of the image that it belongs to."""

    path: str
    image: str
    donor: str
    marker: str
    parts: tuple[MaskPart, ...]

    def left_out(self, reason: str) -> LeftOut:
        """This mask as one that cannot be used."""
        return LeftOut(self.path, self.donor, self.marker, reason, self.image)


@dataclass(frozen=True, slots=True)
class ReadMask:
    """What a mask gives the store: its codes, and labels and pixels of the tiles that the store lacks."""

    path: str
    codes: frozenset[int]
    is_palette: bool
    n_present: int
    parts: tuple[tuple[growing.Labels, shards.Encoded], ...]


def read_mask(
    source: Place, grid: shards.ShardGrid, stored: Mapping[str, str], legend: Legend | None, mask: MaskFile
) -> ReadMask | LeftOut:
    """The mask cut into its tiles, or the reason why it cannot be used; `stored` are digests by annotated tile."""
    try:
        place = place_in(source, mask.path)
        is_palette, codes, digest = _read(place, mask.path, legend)
        changed = any(stored.get(part.tile, digest) != digest for part in mask.parts)
        if changed:
            return mask.left_out(_CHANGED)
        _check_size(codes, mask.parts[0])
        found = checked_codes(codes, legend)
    except TileReadError as error:
        return mask.left_out(error.reason)
    fresh = [part for part in mask.parts if part.tile not in stored]
    parts = tuple(_stored_part(codes, part, grid, {n.SOURCE: mask.path, n.SHA256: digest}) for part in fresh)
    return ReadMask(mask.path, found, is_palette, len(mask.parts) - len(fresh), parts)


def checked_codes(codes: NDArray[Any], legend: Legend | None) -> frozenset[int]:
    """The codes that occur in a mask (y, x), once they can be those of classes.

    Raises TileReadError for values outside 0 to 255, for a mask of interpolated values, and for a code that the legend
    lacks.
    """
    values, counts = np.unique(codes, return_counts=True)
    lowest, highest = int(values[0]), int(values[-1])
    if lowest < 0 or highest > MAX_CODE:
        raise TileReadError(f"wrong values: expected codes from 0 to {MAX_CODE}, found {lowest} to {highest}")
    rare = int(np.count_nonzero(counts < max(RARE_PX, RARE_SHARE * codes.size)))
    if values.size > MOST_CODES and 2 * rare > values.size:
        why = f"{values.size} values, {rare} of them on hardly any pixels: it was resampled or compressed with loss"
        raise TileReadError(f"lossy mask: {why}. Export the masks as PNG in their own size.")
    found = frozenset(int(value) for value in values)
    unknown = sorted(found - set(legend.meanings)) if legend is not None else []
    if unknown:
        raise TileReadError(f"unknown code: {unknown[0]} is not in the legend")
    return found


def _read(place: Place, path: str, legend: Legend | None) -> tuple[bool, NDArray[Any], str]:
    """Whether the numbers of a palette were taken for codes, the codes (y, x), and the SHA-256 of the file."""
    _refuse_lossy(path)
    if legend is not None and legend.colours:
        colours, digest = read_colours(place)
        return False, codes_of_colours(colours, legend), digest
    try:
        return read_header(place, dtypes=LABEL_DTYPES).is_palette, *read_labels(place)
    except TileReadError as error:
        raise TileReadError(f"{error.reason}{_legend_hint(place)}") from error


def _legend_hint(place: Place) -> str:
    """What reads a mask that is drawn in colours, empty for another one."""
    try:
        is_colour = read_header(place, channels=True).is_colour
    except TileReadError:
        return ""
    return "; a legend of colours says what they mean: --legend FILE (label, #rrggbb)" if is_colour else ""


def _refuse_lossy(path: str) -> None:
    if PurePosixPath(path).suffix.lower() in (".jpg", ".jpeg"):
        raise TileReadError("lossy mask: JPEG does not keep codes as they are. Export the masks as PNG.")


def _check_size(codes: NDArray[Any], part: MaskPart) -> None:
    expected = (part.image_height, part.image_width)
    if codes.shape != expected:
        raise TileReadError(
            f"wrong shape: expected {expected[0]} x {expected[1]} as the image, "
            f"found {codes.shape[0]} x {codes.shape[1]}"
        )


def _stored_part(
    codes: NDArray[Any], part: MaskPart, grid: shards.ShardGrid, facts: growing.Labels
) -> tuple[growing.Labels, shards.Encoded]:
    """Labels and pixels of one tile of a mask; `facts` are those of its file."""
    cropped = codes[part.y : part.y + part.height, part.x : part.x + part.width].astype(np.uint8)
    own = {n.TILE: part.tile, n.TRUTH_PROFILE: truth_profile(cropped, are_codes=True)}
    return {**facts, **own}, shards.encode_tile(cropped, grid)
