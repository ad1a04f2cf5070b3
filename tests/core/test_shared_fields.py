"""Tiles that show a part of one field are known however they were cropped, moved, turned, brightened or swapped."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from fintune_xr.seeds import stream
from fintune_xr.simulation.phantoms import phantom_tile
from fintune_xr.splits.assignment import BothShow, find_leaks, find_shared_fields
from fintune_xr.splits.image_hash import looks
from fintune_xr.splits.second_look import COPY, likeness_in_place
from fintune_xr.splits.shared_fields import Shared, shared_part, windows_of, windows_together

PX = 160
TURNS = [(turn, k) for turn in (False, True) for k in range(4)]


def field(seed: int, px: int = PX) -> NDArray[np.float64]:
    return phantom_tile(stream(seed, "fields"), marker="GFAP", ratio=0.5, tile_px=px).image.astype(np.float64)


def cell(seed: int, px: int = 96) -> NDArray[np.float64]:
    """One plane with one ragged, granular cell in its middle, as centred crops show it."""
    rng = stream(seed, "cell")
    y, x = np.mgrid[:px, :px] - px / 2
    ragged, grain = (ndimage.gaussian_filter(rng.normal(size=(px, px)), width) for width in (6, 1.5))
    shape = np.hypot(y, x) < px * (0.28 + 1.5 * ragged)
    return np.asarray(500 + 3000 * shape * (1 + 2 * grain) + rng.normal(0, 30, (px, px)))[None]


def turned(image: NDArray[np.float64], is_mirrored: bool, k: int) -> NDArray[np.float64]:
    return np.rot90(image[..., ::-1] if is_mirrored else image, k, axes=(1, 2))


def likeness_of(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """How much two tiles (channel, y, x) of two donors and parts are alike where their windows are; 0 where none is."""
    tiles = [one, other]
    sides = (min(min(tile.shape[1:]) for tile in tiles), max(max(tile.shape[1:]) for tile in tiles))
    windows = windows_together([windows_of(tile, sides) for tile in tiles])
    found = [0.0]

    def look(shared: Shared) -> BothShow | None:
        planes = [tiles[at][channel] for at, channel in zip(shared.tiles, shared.channels, strict=True)]
        found.append(likeness_in_place(*shared_part(*planes, shared)))
        return BothShow("alike", is_certain=True) if found[-1] >= COPY else None

    find_shared_fields(["a", "b"], ["train", "test"], donor=["1", "2"], windows=windows, shown_by_both=look)
    return max(found)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 9), y=st.integers(0, PX // 4), x=st.integers(0, PX // 4), turn=st.sampled_from(TURNS),
    gain=st.floats(0.2, 3), is_swapped=st.booleans(),
)  # fmt: skip
def test_a_crop_of_a_field_is_known(
    seed: int, y: int, x: int, turn: tuple[bool, int], gain: float, is_swapped: bool
) -> None:
    image = field(seed)
    cut = image[:, y : y + 3 * PX // 4, x : x + 3 * PX // 4]
    copy = turned(cut[::-1] if is_swapped else cut, *turn) * gain + 20
    assert likeness_of(image, copy) > 0.9


def as_jpeg(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    planes = []
    for plane in image:
        held = io.BytesIO()
        Image.fromarray((255 * (plane - plane.min()) / np.ptp(plane)).astype(np.uint8)).save(held, "JPEG", quality=50)
        planes.append(np.asarray(Image.open(io.BytesIO(held.getvalue()))))
    return np.stack(planes)


@pytest.mark.parametrize(
    "copy",
    [as_jpeg, np.sqrt, lambda a: a + stream(0, "noise").normal(0, 0.2 * a.std(), a.shape), lambda a: a[::-1, 9:, :-5]],
)  # fmt: skip
def test_copies_that_were_saved_otherwise_and_moved_are_known(copy: object) -> None:
    image = field(3)
    assert likeness_of(image, copy(image[:, 20:, 12:])) >= COPY  # type: ignore[operator]


def test_the_hash_of_the_whole_plane_does_not_know_them() -> None:
    image = field(1)
    for copy in (image[::-1], image[:, 20:, :-20]):
        leaks = find_leaks(
            ["a", "b"], ["train", "test"], donor=["1", "2"], digest=["x", "y"], seen=looks([image, copy], ["D", "m"])
        )
        assert not leaks
        assert likeness_of(image, copy) > 0.9


def test_different_fields_share_nothing() -> None:
    fields = [field(seed) for seed in range(6)] + [field(seed, PX // 2) for seed in range(6, 10)]
    cells = [cell(seed) for seed in range(8)]
    for tiles in (fields, cells):
        worst = max(likeness_of(tiles[one], tiles[other]) for one in range(len(tiles)) for other in range(one))
        assert worst < COPY - 0.1


def test_tiles_without_anything_or_smaller_than_a_window_are_like_none() -> None:
    image = field(2)
    assert likeness_of(image, np.full_like(image, 7.0)) == 0
    assert likeness_of(image, image[:, :10, :10]) == 0
