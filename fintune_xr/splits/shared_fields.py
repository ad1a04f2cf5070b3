"""Windows around what is conspicuous in a plane, by which tiles are known that show a part of the same field.

A hash of a whole plane is another one once the plane is moved or cropped. A window is placed by what it shows, so that
it lies over the same cells wherever these are in a tile, and has the same hash in each of its copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.splits.image_hash import HASH_SIDE, N_BITS, Floats, area_means, has_contrast, perceptual_hashes

# Planes are looked at this small, all by the same factor.
_LARGEST_SIDE: Final = 256
# Fewest and most places of a window's side, by half the smallest tile: some cells, and room enough to lie in a crop.
_WINDOW: Final = (24, 64)
_MOST_WINDOWS: Final = 8
# What a window is placed by is a blob of about this radius, in places.
_BLOB: Final = 3.0
# A window that is placed half a place beside its copy differs in some more bits than a whole plane.
WINDOW_BITS: Final = 40
_FIRST_WORD: Final = 18


@dataclass(frozen=True, slots=True)
class Shared:
    """Two windows that are alike: their tiles, channels and centres (y, x) in px, and how the second is turned."""

    tiles: tuple[int, int]
    channels: tuple[int, int]
    centres: tuple[tuple[float, float], tuple[float, float]]
    orientation: int


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows (window,) of tiles: `tile` and `channel` by position, `centre` (window, 2) in px, `words` as of looks."""

    tile: NDArray[np.int64]
    channel: NDArray[np.int64]
    centre: Floats
    words: NDArray[np.uint64]

    def shared(self, tile: int, others: NDArray[np.intp]) -> Iterator[Shared]:
        """Windows of `tile` and of `others` that are alike in any two channels, the most alike first."""
        own, theirs = np.flatnonzero(self.tile == tile), np.flatnonzero(np.isin(self.tile, others))
        found: list[tuple[int, int, int, int]] = []
        for one in own:
            first = np.bitwise_count(self.words[theirs, :, 0] ^ self.words[one, 0, 0])
            at, turned = np.nonzero(first <= _FIRST_WORD)
            bits = np.bitwise_count(self.words[theirs[at], turned] ^ self.words[one, 0]).sum(axis=-1, dtype=np.int64)
            near = bits <= WINDOW_BITS
            alike = zip(bits[near].tolist(), theirs[at[near]].tolist(), turned[near].tolist(), strict=True)
            found += [(count, int(one), other, turn) for count, other, turn in alike]
        for _, ours, other, turn in sorted(found):
            yield Shared(
                (tile, int(self.tile[other])), (int(self.channel[ours]), int(self.channel[other])),
                (self._centre(ours), self._centre(other)), turn,
            )  # fmt: skip

    def _centre(self, window: int) -> tuple[float, float]:
        y, x = self.centre[window].tolist()
        return float(y), float(x)


def windows_of(planes: NDArray[np.generic], sides: tuple[int, int]) -> Windows:
    """Windows of a tile (channel, y, x), number 0, among tiles whose `sides` are from the first to the second in px.

    All windows have one size, for a crop has the scale of what it was cut from.
    """
    smallest, longest = sides
    factor = max(1.0, longest / _LARGEST_SIDE)
    side = int(np.clip(smallest / factor / 2, *_WINDOW))
    rows = [(at, *window) for at, plane in enumerate(planes) for window in _of_plane(plane, factor, side)]
    return Windows(
        np.zeros(len(rows), np.int64),
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.float64).reshape(-1, 2),
        np.array([row[2] for row in rows], np.uint64).reshape(len(rows), 8, N_BITS // 64),
    )


def windows_together(tiles: Sequence[Windows]) -> Windows:
    """Windows of all `tiles`, which get their numbers by their order."""
    number = np.repeat(np.arange(len(tiles)), [one.tile.size for one in tiles])
    parts = [np.concatenate([getattr(one, name) for one in tiles]) for name in ("channel", "centre", "words")]
    return Windows(number, *parts)


def _of_plane(
    plane: NDArray[np.generic], factor: float, side: int
) -> Iterator[tuple[tuple[float, float], NDArray[np.uint64]]]:
    """Centre in px and words (orientation, word) of each window of a plane (y, x), in places of `factor` px."""
    height, width = (int(length / factor) for length in plane.shape)
    if min(height, width) < side:
        return
    y_edges, x_edges = (np.asarray(np.arange(length + 1) * factor, np.float64) for length in (height, width))
    small = area_means(plane, y_edges, x_edges)
    half: Floats = np.linspace(-side / 2, side / 2, HASH_SIDE + 1, dtype=np.float64)
    for y, x in _conspicuous(small, side / 2):
        window = area_means(small, y + half, x + half)
        if has_contrast(window):
            yield (y * factor, x * factor), np.packbits(perceptual_hashes(window), axis=-1).view(np.uint64)


def _conspicuous(small: Floats, margin: float) -> list[tuple[float, float]]:
    """Centres (y, x) of the blobs that stand out most, in places from the outer corner, so far from the border."""
    from scipy.ndimage import gaussian_laplace, maximum_filter

    response = np.abs(gaussian_laplace(small, _BLOB))
    peaks = (response == maximum_filter(response, 2 * int(_BLOB) + 1)) & (response > 0)
    y, x = np.nonzero(peaks)
    inside = (y >= margin) & (x >= margin) & (y < small.shape[0] - margin) & (x < small.shape[1] - margin)
    y, x = y[inside], x[inside]
    order = np.argsort(-response[y, x], kind="stable")[:_MOST_WINDOWS]
    return [(_summit(response[:, x[at]], int(y[at])) + 0.5, _summit(response[y[at]], int(x[at])) + 0.5) for at in order]


def _summit(line: Floats, at: int) -> float:
    """Where the parabola through a peak and its neighbours is highest."""
    if not 0 < at < len(line) - 1:
        return float(at)
    before, here, after = line[at - 1 : at + 2]
    bend = before - 2 * here + after
    return float(at + (0.5 * (before - after) / bend if bend < 0 else 0.0))


def shared_part(
    one: NDArray[np.generic], other: NDArray[np.generic], shared: Shared
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """What two planes (y, x) both show where their windows are `shared`: two planes of one size, as they lie."""
    turned, centre = _turned(other, shared.centres[1], shared.orientation)
    dy, dx = (round(ours - theirs) for ours, theirs in zip(shared.centres[0], centre, strict=True))
    y = slice(max(0, dy), max(0, min(one.shape[0], turned.shape[0] + dy)))
    x = slice(max(0, dx), max(0, min(one.shape[1], turned.shape[1] + dx)))
    return one[y, x], turned[y.start - dy : y.stop - dy, x.start - dx : x.stop - dx]


def _turned(
    plane: NDArray[np.generic], centre: tuple[float, float], orientation: int
) -> tuple[NDArray[np.generic], tuple[float, float]]:
    """A plane in one of the 8 orientations, in the order of `perceptual_hashes`, and where a place in it then is."""
    is_transposed, is_down, is_left = orientation >= 4, orientation % 4 >= 2, orientation % 2 == 1
    if is_transposed:
        plane, centre = plane.T, centre[::-1]
    height, width = plane.shape
    y, x = centre
    return plane[:: -1 if is_down else 1, :: -1 if is_left else 1], (
        height - y if is_down else y,
        width - x if is_left else x,
    )
