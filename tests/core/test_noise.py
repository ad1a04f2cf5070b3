"""Copies of an exposure are known by its noise, and nothing else is, however alike two fields are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from fintune_xr.seeds import stream
from fintune_xr.simulation.phantoms import phantom_tile
from fintune_xr.splits.noise import SAME_NOISE, noise_likeness

Plane = NDArray[np.float64]


def plane(seed: int, px: int = 96) -> Plane:
    image = phantom_tile(stream(seed, "noise"), marker="IBA1", ratio=0.5, tile_px=px).image
    return np.asarray(image[1], np.float64)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 9), y=st.integers(-6, 6), x=st.integers(-6, 6), gain=st.floats(0.3, 3), floor=st.floats(0, 99)
)
def test_a_moved_copy_of_another_gain_has_the_noise_of_its_original(
    seed: int, y: int, x: int, gain: float, floor: float
) -> None:
    whole = plane(seed)
    copy = np.round(gain * whole[6 + y : 86 + y, 6 + x : 86 + x] + floor)
    assert noise_likeness(whole[6:86, 6:86], copy) > SAME_NOISE + 0.2


@pytest.mark.parametrize("saved", [np.sqrt, np.log, lambda a: (255 * a / a.max()).astype(np.uint8)])
def test_a_copy_of_another_gamma_or_of_8_bit_has_it_too(saved: Callable[[Plane], Plane]) -> None:
    assert noise_likeness(plane(1), saved(plane(1))) > SAME_NOISE + 0.2


@pytest.mark.parametrize("px", [32, 64, 96])
def test_different_fields_have_different_noise(px: int) -> None:
    planes = [plane(seed, px) for seed in range(6)]
    assert max(noise_likeness(planes[i], planes[j]) for i in range(6) for j in range(i)) < SAME_NOISE - 0.2


def test_the_same_objects_seen_twice_have_different_noise() -> None:
    rng = stream(0, "twice")
    y, x = np.mgrid[:96, :96]
    disc = 1000.0 * (np.hypot(y - 40, x - 50) < 12) + 100
    field = ndimage.gaussian_filter(plane(2), 2)
    for shown in (disc, field):
        seen = [shown + rng.normal(0, 5, shown.shape) for _ in range(2)]
        assert noise_likeness(*seen) < SAME_NOISE - 0.2


def test_a_plane_without_noise_has_none_in_common() -> None:
    y, x = np.mgrid[:96, :96]
    disc = 1000.0 * (np.hypot(y - 40, x - 50) < 12) + 100
    assert noise_likeness(disc, disc) == 0
    assert noise_likeness(np.full((64, 64), 7), np.full((64, 64), 7)) == 0
