"""Copies are copies however they were saved; crops of different cells that a hash calls alike are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from fintune_xr.seeds import stream
from fintune_xr.splits.second_look import COPY, likeness


def crop(seed: int, px: int = 96) -> np.ndarray:
    """One cell of ragged outline and granular inside in the middle, as centred crops show it."""
    rng = stream(seed, "crop")
    y, x = np.mgrid[:px, :px] - px / 2
    ragged = ndimage.gaussian_filter(rng.normal(size=(px, px)), 6)
    cell = np.hypot(y, x) < px * (0.28 + 1.5 * ragged)
    grain = ndimage.gaussian_filter(rng.normal(size=(px, px)), 1.5)
    return (500 + 3000 * cell * (1 + 2 * grain) + rng.normal(0, 30, (px, px))).clip(0, 65535).astype(np.uint16)


def as_jpeg(plane: np.ndarray) -> np.ndarray:
    low, high = float(plane.min()), float(plane.max())
    held = io.BytesIO()
    Image.fromarray((255 * (plane - low) / (high - low)).astype(np.uint8)).save(held, "JPEG", quality=40)
    held.seek(0)
    return np.asarray(Image.open(held))


@pytest.mark.parametrize(
    "copy",
    [
        lambda p: p * 0.4 + 7, as_jpeg, lambda p: np.sqrt(p.astype(float)), lambda p: p.T[::-1], lambda p: p[:, ::-1],
        lambda p: np.roll(p, (2, -3), (0, 1)), lambda p: p[:-2, 2:],
        lambda p: p + stream(0, "n").normal(0, 150, p.shape),
    ],
)  # fmt: skip
def test_copies_are_known(copy: object) -> None:
    for seed in range(4):
        assert likeness(crop(seed), copy(crop(seed))) > COPY  # type: ignore[operator]


def test_different_cells_in_the_middle_of_their_crops_are_no_copies() -> None:
    for one in range(6):
        for other in range(one):
            assert likeness(crop(one), crop(other)) < COPY - 0.1


def test_a_plane_that_shows_nothing_is_like_none() -> None:
    assert likeness(np.full((40, 40), 7), crop(0)) == 0
