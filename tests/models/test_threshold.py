"""The classical floor: finds nuclei, finds nothing where there is nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from fintune_xr.errors import UnknownNameError
from fintune_xr.metrics.instance import match_masks
from fintune_xr.models.protocol import Segmenter, segment
from fintune_xr.models.threshold.adapter import ThresholdSegmenter, _background
from fintune_xr.models.threshold.settings import ThresholdSettings
from fintune_xr.seeds import stream
from fintune_xr.simulation.phantoms import phantom_tile

CHANNELS = ("DAPI", "marker")


def masks(image: NDArray[np.generic], **settings: object) -> NDArray[np.uint32]:
    segmenter = ThresholdSegmenter(ThresholdSettings(**settings), channels=CHANNELS)
    assert isinstance(segmenter, Segmenter)
    return segment(segmenter, [image])[0]


def discs(centres: list[tuple[int, int]], *, radius: int = 8, shape: tuple[int, int] = (96, 96)) -> NDArray[np.uint16]:
    y, x = np.mgrid[: shape[0], : shape[1]]
    inside = np.any([(y - cy) ** 2 + (x - cx) ** 2 <= radius**2 for cy, cx in centres], axis=0)
    plane = stream(0).normal(500, 12, shape) + 400 * inside + 2 * y
    return np.stack([plane, np.zeros(shape)]).astype(np.uint16)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((2, 64, 64), np.uint16),
        np.full((2, 64, 64), 65535, np.uint16),
        np.ones((2, 1, 1), np.uint16),
        stream(1).poisson(300, (2, 200, 200)).astype(np.uint16),
        stream(1).poisson(0.2, (2, 200, 200)).astype(np.uint16),
        (stream(1).normal(500, 10, (2, 200, 200)) + np.arange(200) / 6).astype(np.uint16),
    ],
    ids=["zeros", "saturated", "one pixel", "noise", "photons", "ramp"],
)
def test_no_cells_where_there_are_none(image: NDArray[np.uint16]) -> None:
    mask = masks(image)
    assert mask.shape == image.shape[1:]
    assert mask.dtype == np.uint32
    assert mask.max() == 0


def test_discs_are_found_one_by_one() -> None:
    mask = masks(discs([(20, 20), (20, 60), (60, 40), (60, 54)]))
    assert mask.max() == 4
    assert mask[60, 40] != mask[60, 54]
    areas = np.bincount(mask.ravel())[1:]
    assert np.all(np.abs(areas - np.pi * 64) < 60)


def test_a_few_cells_on_textured_tissue_are_found_and_little_else() -> None:
    texture = ndimage.gaussian_filter(stream(2).normal(0, 1, (512, 512)), 4)
    image = discs([(100, 100), (300, 400), (420, 90)], shape=(512, 512)) + 0.0
    image[0] += 45 * texture / texture.std()
    assert 3 <= masks(image.clip(0).astype(np.uint16)).max() <= 5


@pytest.mark.parametrize("width_px", [60, 64, 96])
def test_the_background_of_a_mirrored_tile_is_the_mirrored_one(width_px: int) -> None:
    tile = stream(3).normal(100, 10, (256, 256)).astype(np.float32)
    settings = ThresholdSettings(background_px=width_px)
    expected = _background(tile, settings)
    np.testing.assert_allclose(_background(tile[:, ::-1], settings)[:, ::-1], expected, atol=1e-3)
    np.testing.assert_allclose(_background(tile[::-1], settings)[::-1], expected, atol=1e-3)


def test_a_run_of_an_earlier_release_keeps_its_background_and_its_identity() -> None:
    before = ThresholdSettings(odd_window=False, level="background")
    assert not {"odd_window", "level"} & set(before.as_dict())
    assert ThresholdSettings().as_dict()["odd_window"] is True
    tile = stream(3).normal(100, 10, (256, 256)).astype(np.float32)
    opened = ndimage.grey_opening(tile.reshape(32, 8, 32, 8).mean(axis=(1, 3)), size=(8, 8))
    coarse = ndimage.gaussian_filter(opened, 4)
    expected = ndimage.zoom(coarse, 8, order=1, grid_mode=True, mode="nearest")
    np.testing.assert_array_equal(_background(tile, before), expected)


def test_small_things_are_dropped() -> None:
    image = discs([(20, 20), (20, 60), (60, 40)])
    assert masks(image, min_area_px=400).max() == 0


def test_holes_are_filled_up_to_a_size() -> None:
    image = discs([(40, 40)], radius=14)
    image[0, 38:43, 38:43] = 500
    assert masks(image)[40, 40] == 1
    assert masks(image, fill_holes_px=0)[40, 40] == 0


def test_the_channel_is_chosen_by_name() -> None:
    image = discs([(40, 40)])
    assert masks(image).max() == 1
    assert masks(image, channel="marker").max() == 0
    with pytest.raises(UnknownNameError, match=r"no channel 'DAPY'; known: DAPI, marker\. Did you mean 'DAPI'"):
        ThresholdSegmenter(ThresholdSettings(channel="DAPY"), channels=CHANNELS)


@given(st.integers(0, 1000), st.sampled_from([1, 7, 30]), st.integers(0, 20_000))
def test_brightness_does_not_matter(seed: int, gain: int, offset: int) -> None:
    image = phantom_tile(stream(seed), marker="GFAP", ratio=0.3, tile_px=64).image.astype(np.float64)
    np.testing.assert_array_equal(masks(image) > 0, masks(gain * image + offset) > 0)


def test_it_finds_most_simulated_nuclei() -> None:
    tile = phantom_tile(stream(4), marker="GFAP", ratio=0.3, tile_px=256)
    found = match_masks(tile.mask, masks(tile.image), thresholds=(0.5,))
    assert found.tp[0] / found.n_true > 0.5


def test_it_finds_most_real_nuclei(real_data: Path) -> None:
    found = n_true = n_predicted = 0
    for path in sorted((real_data / "dsb2018-fluo" / "images").glob("*.tif"))[:8]:
        plane, truth = tifffile.imread(path), tifffile.imread(real_data / "dsb2018-fluo" / "labels" / path.name)
        matches = match_masks(truth, masks(np.stack([plane, plane])), thresholds=(0.5,))
        found, n_true = found + int(matches.tp[0]), n_true + matches.n_true
        n_predicted += matches.n_predicted
    assert found / n_true > 0.6
    assert found / n_predicted > 0.6


@pytest.mark.parametrize("density", [0.1, 0.4, 0.7])
def test_however_dense_the_field_its_cells_are_found(density: float) -> None:
    """Of most pixels foreground, the median is one of theirs and says nothing about the background."""
    pitch = round(np.sqrt(np.pi * 100 / density))
    y, x = np.mgrid[: 8 * pitch, : 8 * pitch] % pitch - pitch // 2
    brightness = stream(3).uniform(250, 500, (8, 8)).repeat(pitch, 0).repeat(pitch, 1)
    plane = stream(0).normal(500, 12, y.shape) + brightness * (y**2 + x**2 <= 100)
    image = np.stack([plane, np.zeros_like(plane)]).astype(np.uint16)
    assert abs(int(masks(image, background_px=0).max()) - 64) <= 2
