"""Measures of how a tile was taken, against values worked by hand and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from fintune_xr.pixels.tile_quality import MEASURES, tile_quality


def of(plane: np.ndarray) -> dict[str, float]:
    return dict(zip(MEASURES, tile_quality(plane[None])[0], strict=True))


def textured(seed: int = 0) -> np.ndarray:
    """Squares of 6 px with sharp edges."""
    return np.kron(np.random.default_rng(seed).integers(100, 1000, (8, 8)), np.ones((6, 6), int))


def test_brightness_and_clipping_by_hand() -> None:
    plane = np.arange(100, dtype=np.uint16).reshape(10, 10)
    plane[plane > 89] = 89  # ten pixels clipped, and the one that was 89
    found = of(plane)
    assert found["intensity"] == pytest.approx((sum(range(90)) + 10 * 89) / 100)
    assert found["background"] == pytest.approx(4.95)  # between the 5th and 6th of a hundred
    assert found["saturation"] == pytest.approx(0.11)


@given(gain=st.floats(0.1, 50), offset=st.floats(-500, 5000))
def test_focus_is_that_of_the_picture_and_not_of_the_detector(gain: float, offset: float) -> None:
    plane = textured().astype(np.float64)
    assert of(plane * gain + offset)["focus"] == pytest.approx(of(plane)["focus"], rel=1e-3)


def test_blur_lowers_focus_and_a_plane_without_contrast_has_none() -> None:
    sharp = textured()
    blurred = [of(ndimage.gaussian_filter(sharp.astype(float), sigma))["focus"] for sigma in (0.5, 1, 2, 4)]
    assert of(sharp)["focus"] > blurred[0] > blurred[1] > blurred[2] > blurred[3]
    assert np.isnan(of(np.full((8, 8), 7))["focus"])


def test_planes_are_measured_on_their_own() -> None:
    first, second = textured(1), textured(2)
    both = tile_quality(np.stack([first, second]))
    np.testing.assert_array_equal(both, np.concatenate([tile_quality(first[None]), tile_quality(second[None])]))
