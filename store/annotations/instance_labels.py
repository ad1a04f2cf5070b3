"""From label images to instances, after one look at whether the labels can be instances at all."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label as connected_components

from fintune_xr.errors import TileReadError
from fintune_xr.pixels.instance_labels import MAX_LABEL

Pieces: TypeAlias = Literal["keep", "split"]
"""What becomes of labels in several pieces: each stays one instance, or each piece becomes one."""

PIECES: Final = ("keep", "split")

# Pieces below this share of the largest one are strays of a brush and no instances of their own.
_STRAY_SHARE: Final = 0.1
# Values that programs give to pixels of which nothing is known, and how far those stand from labels that count cells.
_VOID: Final = (255, 65535)
_VOID_APART: Final = 64
# Labels that were spread over all greys lie at least so far from each other, or nobody can tell that they were.
_LEAST_STEP: Final = 16
# A line round a cell is this thin at most, in px from its middle, and leaves so much of the cell open.
_LINE_PX: Final = 2.0
_OPEN_SHARE: Final = 0.35
# Branches of a cell that leave the plane and come back make a few pieces of it, and not as many.
_MOST_PIECES: Final = 4
# No cell fills a tile; what covers this share of one is its frame, its background, or a mask of something else.
_WHOLE_SHARE: Final = 0.95


def as_instances(labels: NDArray[Any], pieces: Pieces | None = None) -> tuple[NDArray[np.uint32], bool]:
    """Instance mask (y, x) uint32 of a label image, and whether a binary image was cut into components.

    An image with two values, the lower one the background, in several 8-connected pieces counts as binary and is cut
    up. Other labels stay as they are, gaps included. With `pieces` "keep" nothing is cut; with "split" each piece of
    each label becomes an instance.

    Raises TileReadError for labels below 0 or beyond uint32, and without `pieces` for labels of which some consist of
    several pieces, one is a value for unknown pixels, or one lies round all others; always for outlines, for masks that
    are white where the background is, and for masks without background.
    """
    lowest, highest = int(labels.min(initial=0)), int(labels.max(initial=0))
    if lowest < 0 or highest > MAX_LABEL:
        raise TileReadError(f"wrong values: expected labels from 0 to {MAX_LABEL}, found {lowest} to {highest}")
    labels = _from_zero(labels.astype(np.uint32))
    values = np.unique(labels[labels != 0])
    if not values.size:
        return labels, False
    parts = connected_components(labels, connectivity=2)
    _check_outlines(parts)
    if values.size == 1:
        _check_polarity(labels != 0, int(parts.max()))
        is_cut = pieces != "keep" and int(parts.max()) > 1
        if is_cut:
            _check_background(parts.astype(np.uint32), pieces)
        is_one = int(parts.max()) == 1 and _is_white(values[0])
        return (parts.astype(np.uint32) if is_cut or is_one else labels), is_cut
    _check_background(labels, pieces)
    if pieces == "split":
        return parts.astype(np.uint32), False
    if pieces is None:
        _check_void(values)
        _check_pieces(labels, parts)
        _check_nested(labels)
    return labels, False


def drawn_instances(labels: NDArray[np.uint32], pieces: Pieces | None) -> NDArray[np.uint32]:
    """Instances (y, x) of objects that were drawn, each piece one with `pieces` "split".

    Raises TileReadError without `pieces` for an object of more pieces than one cell has: all cells of an image that
    a program has joined into one.
    """
    if pieces == "keep":
        return labels
    parts = np.asarray(connected_components(labels, connectivity=2))
    if pieces == "split":
        return parts.astype(np.uint32)
    sizes, (flat, first) = np.bincount(parts.ravel()), np.unique(parts.ravel(), return_index=True)
    owners, counts = np.unique(labels.ravel()[first][flat > 0], return_counts=True)
    for owner in owners[counts > _MOST_PIECES]:
        own = sizes[flat[labels.ravel()[first] == owner]]
        n_pieces = int(np.count_nonzero(own >= _STRAY_SHARE * own.max()))
        if n_pieces > _MOST_PIECES:
            raise TileReadError(
                f"objects in pieces: object {owner} consists of {n_pieces} pieces. Are they cells that were joined "
                "into one? Where each piece is a cell: --pieces split; where they are one: --pieces keep"
            )
    return labels


def refuse_whole_tile(instances: NDArray[np.uint32]) -> None:
    """Raises TileReadError where one object covers (nearly) all of a tile (y, x), however it was drawn."""
    numbers, sizes = np.unique(instances[instances != 0], return_counts=True)
    largest = int(sizes.max(initial=0))
    if largest < _WHOLE_SHARE * instances.size or not largest:
        return
    raise TileReadError(
        f"whole tile: expected cells beside each other, found object {numbers[sizes.argmax()]} on "
        f"{largest / instances.size:.0%} of the tile. Is it the frame of the image, or the background? Save the "
        "background as 0 and leave frames out; where one cell does fill the tile: --pieces keep"
    )


def _check_background(labels: NDArray[np.uint32], pieces: Pieces | None) -> None:
    """Refuses a label that lies along most of the border, as a background or a frame does: always where no pixel is 0,
    else where it is at all four sides and nobody said that it is a cell.
    """
    border = _border(labels)
    numbers, counts = np.unique(border, return_counts=True)
    most, count = int(numbers[counts.argmax()]), int(counts.max())
    if most == 0 or 2 * count <= border.size:
        return
    if not (labels == 0).any():
        raise TileReadError(
            f"wrong values: no pixel is 0, and label {most} lies along the border: is it the background? "
            "Save the background as 0."
        )
    sides = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    if pieces is None and all((side == most).any() for side in sides):
        raise TileReadError(
            f"wrong values: label {most} lies along {count / border.size:.0%} of the border, at all four sides, round "
            "the other labels: is it the background, or a frame? Save it as 0; where it is a cell: --pieces keep"
        )


def _check_void(values: NDArray[np.uint32]) -> None:
    """Refuses the highest value of a dtype far above all other labels: it says mostly that nothing is known there."""
    highest, below = int(values[-1]), int(values[-2])
    if highest in _VOID and highest - below > max(2 * values.size, _VOID_APART):
        _check_stretched(values)
        raise TileReadError(
            f"wrong values: {highest} stands far above the other labels, {values[0]} to {below}. Is it for pixels of "
            "which nothing is known? Save them as 0; where it is a cell: --pieces keep"
        )


def _check_stretched(values: NDArray[np.uint32]) -> None:
    """Refuses labels that a program has spread over all greys of their dtype: all are multiples of its highest value
    over a whole number.
    """
    highest = int(values[-1])
    n_labels = round(highest / max(_LEAST_STEP, int(np.diff(values, prepend=0).min())))
    numbers = np.round(values * (n_labels / highest))
    if np.abs(values - numbers * (highest / n_labels)).max() <= 1:
        raise TileReadError(
            f"stretched labels: all values are multiples of {highest / n_labels:.6g}, which is {highest} / {n_labels}, "
            f"as programs make them of labels 1 to {n_labels} that shall be seen. Save the labels as they are; where "
            "the values do tell cells apart: --pieces keep"
        )


def _is_white(value: int) -> bool:
    """Values that say "cell" and no number of one; a single piece of them is instance 1, as it has always been."""
    return value in (1, 255)


def _from_zero(labels: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A mask of two values of which none is 0, its lower one being the background; others as they are."""
    values = np.unique(labels)
    if values.size != 2 or values[0] == 0:
        return labels
    border = _border(labels == values[0])
    if 2 * np.count_nonzero(border) <= border.size:
        raise TileReadError(
            f"wrong values: found {values[0]} and {values[1]} alone, and the border is mostly {values[1]}: "
            "which one is the background? Save it as 0."
        )
    return np.where(labels == values[0], np.uint32(0), labels)


def _border(pixels: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def _check_polarity(cells: NDArray[np.bool_], n_pieces: int) -> None:
    """A single piece along most of the border that leaves several holes is the background of dark cells."""
    border = _border(cells)
    if n_pieces > 1 or 2 * np.count_nonzero(border) <= border.size:
        return
    holes = int(connected_components(~cells, connectivity=1).max(initial=0))
    if holes > 1:
        raise TileReadError(
            f"inverted mask: the one piece that is not 0 lies along the border and leaves {holes} holes, which look "
            "like the cells. Save the background as 0."
        )


def _check_outlines(parts: NDArray[Any]) -> None:
    drawn = parts > 0
    filled = ndimage.binary_fill_holes(drawn)
    opened = 1 - int(np.count_nonzero(drawn)) / max(1, int(np.count_nonzero(filled)))
    if opened < _OPEN_SHARE:
        return
    padded = np.pad(drawn, 1)
    if float(ndimage.distance_transform_edt(padded).max()) <= _LINE_PX:
        raise TileReadError(
            f"outlines: thin lines enclose {opened:.0%} of what they are drawn round. Fill the outlines, and save "
            "each cell as a label of its own."
        )


def _check_nested(labels: NDArray[np.uint32]) -> None:
    """Refuses labels of which every second lies wholly within one other: rings of a scale, or nuclei within cells."""
    padded = np.pad(labels, 1)
    sides = [(padded[1:], padded[:-1]), (padded[:, 1:], padded[:, :-1])]
    pairs = np.concatenate([np.stack([one[one != other], other[one != other]], axis=1) for one, other in sides])
    pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    n_labels = np.unique(pairs[pairs[:, 0] != 0, 0]).size
    # Labels beside one other alone; without them, those around them are perhaps as well.
    nested: NDArray[Any] = np.empty((0, 2), np.uint32)
    while (inner := _beside_one(pairs)).size:
        nested = np.concatenate([nested, inner])
        pairs = pairs[~np.isin(pairs, inner[:, 0]).any(axis=1)]
    if len(nested) * 2 >= n_labels:
        raise TileReadError(
            f"nested labels: {len(nested)} of {n_labels} labels lie wholly within one other, such as {nested[0, 0]} in "
            f"{nested[0, 1]}. Are these nuclei within cells, classes, or values of a map that falls off from a middle? "
            "Save one label for each cell; where they are cells: --pieces keep"
        )


def _beside_one(pairs: NDArray[Any]) -> NDArray[Any]:
    """Labels that touch one other alone, and that one, (label, 2), out of `pairs` of labels that touch."""
    _, first, counts = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    one = pairs[first[counts == 1]]
    return np.asarray(one[(one != 0).all(axis=1)])


def _check_pieces(labels: NDArray[np.uint32], parts: NDArray[Any]) -> None:
    """Refuses labels that lie about: classes, borders beside interiors, ids given twice, lossy or resampled masks."""
    sizes = np.bincount(parts.ravel())
    flat, first = np.unique(parts.ravel(), return_index=True)
    of = labels.ravel()[first]
    kept = flat > 0
    size, owner = sizes[flat[kept]], of[kept]
    names, where = np.unique(owner, return_inverse=True)
    largest = np.zeros(names.size, np.int64)
    np.maximum.at(largest, where, size)
    counts = np.bincount(where[size >= _STRAY_SHARE * largest[where]], minlength=names.size)
    scattered = int(np.count_nonzero(counts > 1))
    if scattered:
        raise TileReadError(
            f"labels in pieces: {scattered} of {names.size} labels consist of several pieces, up to {counts.max()}. "
            "Is this a mask of classes, of interiors and borders, with ids given twice, or one saved with loss or "
            "interpolated? Where a cell is meant to have several pieces: --pieces keep; where each piece is one: "
            "--pieces split"
        )
