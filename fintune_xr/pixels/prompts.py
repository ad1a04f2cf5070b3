"""Prompts drawn from the truth: what a person would point at who knew the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import find_contours

PromptKind = Literal["centroid", "points", "box", "box_negative"]
PROMPT_KINDS: Final[tuple[PromptKind, ...]] = ("centroid", "points", "box", "box_negative")

# Points of a prompt of several, and how far beside a piece the negative ones lie.
N_POINTS: Final = 5
BESIDE_PX: Final = 10

Mask: TypeAlias = NDArray[np.bool_]

_EIGHT_NEIGHBOURS: Final = np.ones((3, 3), np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """Points (point, 2) as x and y in px with labels (point,), 1 inside and 0 outside, and a box or none.

    `box` is left, top, right, bottom, the last pixels included.
    """

    points: NDArray[np.float64]
    labels: NDArray[np.int64]
    box: NDArray[np.float64] | None = None


def largest_piece(is_there: Mask) -> Mask:
    """The largest 8-connected piece (y, x), the first of several; empty where nothing is there."""
    largest = np.zeros_like(is_there)
    if is_there.any():
        window = _window(is_there)
        numbered, _ = ndimage.label(is_there[window], structure=_EIGHT_NEIGHBOURS)
        largest[window] = numbered == 1 + int(np.bincount(numbered.ravel())[1:].argmax())
    return largest


def close_mask(found: Mask) -> Mask:
    """A mask after closing by 5 x 5 px, and of that the largest piece: what the published study made of masks."""
    closed = np.zeros_like(found)
    # Nothing is closed beyond the outermost pixels.
    if found.any():
        window = _window(found)
        dilated = _in_squares(np.pad(found[window], 4), np.logical_or)
        closed[window] = _in_squares(dilated, np.logical_and)
    return largest_piece(closed)


def _window(mask: Mask, margin: int = 0) -> tuple[slice, slice]:
    """Rows and columns of all pixels of a mask (y, x) that has any, and `margin` px around them."""
    (top, bottom), (left, right) = (np.flatnonzero(mask.any(axis=axis))[[0, -1]] for axis in (1, 0))
    return slice(max(0, top - margin), bottom + 1 + margin), slice(max(0, left - margin), right + 1 + margin)


def _in_squares(mask: Mask, combine: np.ufunc) -> Mask:
    """Pixels combined in each square of 5 x 5 px that lies within `mask`, which loses two px on every side."""
    return _in_fives(_in_fives(mask, combine).T, combine).T


def _in_fives(rows: Mask, combine: np.ufunc) -> Mask:
    pairs = combine(rows[:-1], rows[1:])
    found: Mask = combine(combine(pairs[:-3], pairs[2:-1]), rows[4:])
    return found


def prompt_of(piece: Mask, kind: PromptKind, rng: np.random.Generator) -> Prompt:
    """A prompt of one kind for a piece (y, x) that has pixels.

    `centroid` is the mean place of its pixels, which may lie beside it; `points` are places along its outline; `box` is
    around it; `box_negative` adds places drawn by `rng` about `BESIDE_PX` outside of it, where there are such.
    """
    rows, columns = np.nonzero(piece)
    if kind == "centroid":
        return Prompt(np.array([[columns.mean(), rows.mean()]]), np.ones(1, np.int64))
    if kind == "points":
        return Prompt(_along_outline(piece), np.ones(N_POINTS, np.int64))
    box = np.array([columns.min(), rows.min(), columns.max(), rows.max()], np.float64)
    if kind == "box":
        return Prompt(np.zeros((0, 2)), np.zeros(0, np.int64), box)
    beside = _beside(piece, rng)
    return Prompt(beside, np.zeros(len(beside), np.int64), box)


def _along_outline(piece: Mask) -> NDArray[np.float64]:
    outlines = find_contours(np.pad(piece, 1).astype(np.float64), 0.5)
    longest = max(outlines, key=len)
    chosen = longest[np.linspace(0, len(longest), N_POINTS, endpoint=False).astype(int)] - 1
    return np.asarray(chosen[:, ::-1], np.float64)


def _beside(piece: Mask, rng: np.random.Generator) -> NDArray[np.float64]:
    window = _window(piece, margin=BESIDE_PX + 1)
    away = ndimage.distance_transform_edt(~piece[window])
    corner = [side.start for side in window]
    places = np.argwhere((away >= BESIDE_PX) & (away < BESIDE_PX + 1)) + corner
    chosen = places[rng.permutation(len(places))[:N_POINTS]]
    return np.asarray(chosen[:, ::-1], np.float64)
