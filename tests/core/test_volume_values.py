"""Values of volumes against plain numpy on every voxel, and what the profile sums up."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fintune_xr.errors import FintuneValueError, TileReadError
from fintune_xr.models.volume_profile.adapter import volume_profile
from fintune_xr.pixels.volume_values import normalise

VOLUMES = arrays(np.uint8, (1, 3, 4, 5), elements=st.integers(0, 255)).filter(lambda v: np.ptp(v) > 0)


def expected(volume: np.ndarray, normalisation: str) -> np.ndarray:
    values = volume.astype(np.float64)
    if normalisation == "zscore":
        return (values - values.mean()) / (values.std() + 1e-6)
    if normalisation == "imagenet":
        return values / 255
    high, low = np.percentile(values, 99), values.min()
    return ((np.clip(values, low, high) - low) / (high - low)) ** 0.8


@settings(max_examples=40, deadline=None)
@given(volume=VOLUMES, normalisation=st.sampled_from(["zscore", "imagenet", "percentile_gamma"]))
def test_values(volume: np.ndarray, normalisation: str) -> None:
    if normalisation == "percentile_gamma" and np.percentile(volume, 99) == volume.min():
        return
    found = normalise(volume, normalisation)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(volume, normalisation), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(volume=VOLUMES, percent=st.floats(60, 99.9))
def test_clipping_is_numpys(volume: np.ndarray, percent: float) -> None:
    clipped = np.minimum(volume.astype(np.float64), np.percentile(volume, percent))
    if np.ptp(clipped) < 1e-6:
        return
    found = normalise(volume, "zscore", clip_percentile=percent)
    np.testing.assert_allclose(found, expected(clipped, "zscore"), atol=1e-4)


def test_what_cannot_be_normalised() -> None:
    flat = np.full((1, 2, 3, 4), 9, np.uint8)
    for normalisation in ("zscore", "percentile_gamma"):
        with pytest.raises(TileReadError, match="constant volume"):
            normalise(flat, normalisation)
    np.testing.assert_allclose(normalise(flat, "imagenet"), 9 / 255, rtol=1e-6)
    with pytest.raises(FintuneValueError, match="uint8"):
        normalise(flat.astype(np.float32), "zscore")


@pytest.mark.parametrize("turned", [False, True])
def test_a_volume_takes_its_values_and_no_index(turned: bool) -> None:
    """numpy's own counting and looking up make eight bytes a voxel beside the four of the values."""
    volume = np.random.default_rng(0).integers(0, 256, (1, 16, 128, 128), np.uint8)
    volume = volume[..., ::-1] if turned else volume
    normalise(volume[:, :1], "zscore")  # compiled before, which takes memory of its own
    tracemalloc.start()
    found = normalise(volume, "zscore")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(found, expected(volume, "zscore"), atol=1e-5)
    assert peak < found.nbytes + 2 * volume.nbytes


def test_profile() -> None:
    volume = np.random.default_rng(0).normal(size=(1, 3, 4, 5)).astype(np.float32)
    found = volume_profile(volume)
    assert found.shape == (2 * (3 + 4 + 5),)
    for z in range(3):
        np.testing.assert_allclose(found[z], volume[0, z].mean(), atol=1e-6)
    for x in range(5):
        np.testing.assert_allclose(found[12 + 7 + x], volume[0, :, :, x].std(), atol=1e-6)
